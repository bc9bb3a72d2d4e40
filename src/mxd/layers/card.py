"""The model card: what the layer is, where it belongs, and what was measured."""

import json
import re
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCardData

if TYPE_CHECKING:
    from mxd.layers.base import Layer

_FIGURES = {
    "nmse": "normalised mean squared error",
    "nmse_without_bos": "the same without BOS",
    "fvu": "fraction of variance unexplained",
    "delta_cross_entropy": "increase of cross-entropy (nats per token)",
    "delta_cross_entropy_se": "its standard error, paired by document",
    "loss_recovered": "loss recovered",
    "kl": "KL from the base model (nats per token)",
    "static_nmse": "error with the modulation frozen at its mean",
    "modulation_share": "share of the modulation that varies with the token",
    "l0": "active units per token",
    "dead_fraction": "units that never fired",
    "usage_entropy": "normalised entropy of usage",
    "max_expert_frequency": "largest firing frequency",
}

_WHAT = {
    "mxd": "a Mixture of Decoders: sparse, full-rank experts",
    "transcoder": "a TopK transcoder",
    "skip_transcoder": "a TopK transcoder with a linear skip",
    "topk_autoencoder": "a TopK sparse autoencoder of the MLP's output",
    "dense_mlp": "a dense MLP trained as a control",
    "mlp_transcoder": "a TopK transcoder beside an always-on MLP, trained as a control",
}


def render(layer: "Layer") -> str:
    """The text of a layer's README.md."""
    config, origin = layer.config, layer.provenance
    name = origin.student or config.architecture
    key = json.dumps(_span(origin.site or "name of the MLP"))
    cost = layer.cost()
    header = ModelCardData(
        library_name="mxd",
        tags=["mxd", "interpretability", config.architecture, "model_hub_mixin"],
        base_model=origin.base_model if _is_hub_id(origin.base_model) else None,
    )
    lines = [
        f"---\n{header.to_yaml()}\n---\n",
        f"# {_plain(name)}\n",
        f"This is {_WHAT[config.architecture]}, trained to stand in for "
        f"`{_span(origin.site or 'an MLP')}` of "
        f"`{_span(origin.base_model or 'a language model')}`.\n",
        '```python\nimport mxd\n\nlayer = mxd.load("this folder or hub id")\n'
        f"with mxd.graft(model, {{{key}: layer}}):\n"
        "    ...\n```\n",
        "## Configuration\n",
        _table({**_plain_options(config.to_dict()), "parameters": f"{cost.parameters:,}"}),
    ]
    if origin.edit_history:
        lines += ["## Edited\n", _edited(origin.edit_history)]
    if origin.training:
        lines += ["## Training\n", _table(origin.training)]
    lines += ["## Measured\n", _measured(origin.evaluation)]
    return "\n".join(lines) + "\n"


def _plain_options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "edits"}


def _edited(history: tuple[str, ...]) -> str:
    listed = "\n".join(f"* `{_span(edit)}`" for edit in history)
    return f"Units of this layer were changed after training, in this order:\n\n{listed}\n"


def _measured(figures: dict[str, Any]) -> str:
    rows = {
        f"{_FIGURES[key]} ({key})": figures[key] for key in _FIGURES if _number(figures.get(key))
    }
    if not rows:
        return "Nothing yet: `mxd eval` measures a run and writes its figures here.\n"
    text = figures.get("text")
    tokens = f"{figures['tokens']:,} tokens" if _number(figures.get("tokens")) else "tokens"
    return f"On {tokens}{f' (`{_span(str(text))}`)' if text else ''}:\n\n" + _table(rows)


def _table(values: dict[str, Any]) -> str:
    rows = [f"| {_plain(str(key))} | {_show(value)} |" for key, value in values.items()]
    return "\n".join(["| | |", "| --- | --- |", *rows]) + "\n"


def _show(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else _plain(str(value))


def _plain(text: str) -> str:
    """One line of text that cannot break out of a table, or bring in links, pictures or HTML."""
    return re.sub(r"([\\|\[])", r"\\\1", _span(text)).replace("<", "&lt;")


def _span(text: str) -> str:
    """One line of valid Unicode that cannot break out of a code span."""
    valid = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join(valid.split()).replace("`", "'")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_hub_id(name: str | None) -> bool:
    return name is not None and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None
