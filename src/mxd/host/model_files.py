"""The files of a language model that somebody else may have made, proved before they are loaded."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PretrainedConfig, PreTrainedModel

from mxd._json_files import read_json_object
from mxd._tensor_files import TensorFile
from mxd.errors import UserError
from mxd.host.sources import CHECK_CONFIG, Source

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_GENERATION, _ADAPTER = "generation_config.json", "adapter_config.json"
_MOST_BYTES = 4 << 20
_MOST_INDEX_BYTES = 16 << 20
_MOST_BUFFER_BYTES = 64 << 20  # masks and tables of positions, which no file holds
_SHARD = re.compile(r"[^/\\]+\.safetensors")
_OTHER_SHARD = re.compile(r"shard-\d{5}-model-")  # transformers prefers these where there are some
_SHOWN = 5
_REMEDY = "fetch or save it again"


class Claim(NamedTuple):
    """What the headers of a model's files say that they hold."""

    tensors: int
    """How many there are."""
    numbers: int
    """Their elements."""
    size: int
    """Their bytes."""


def check_model_files(source: Source, expected: str) -> Claim:
    """Make sure that loading reads nothing but safetensors in the model's own folder.

    Args:
        source: where the model comes from.
        expected: what it should be.

    Returns:
        What the files hold, by headers that their sizes bear out.

    Raises:
        UserError: no weights, pickles, an index or a link that leads elsewhere, a damaged file.
    """
    with source.refused(expected):
        generation, adapter, weights = map(source.file, (_GENERATION, _ADAPTER, WEIGHTS))
        index = source.file(INDEX) if weights is None else None
    if generation is not None:
        _read(generation, _MOST_BYTES)
    if adapter is not None:
        raise UserError(
            f"got {source.name!r}, which holds an adapter ({_ADAPTER}), expected {expected}; "
            "merge the adapter into the weights"
        )
    if Path(source.name).is_dir() and any(
        _OTHER_SHARD.match(path.name) for path in Path(source.name).iterdir()
    ):
        raise UserError(
            f"got {source.name!r} with shards of a distributed checkpoint, expected {expected}; "
            "save it with save_pretrained"
        )
    if weights is not None:
        return _claim([weights])
    if index is None:
        raise _no_weights(source, expected)
    return _claim(_shards(source, index, expected))


def check_blocks(claim: Claim, config: PretrainedConfig, source: Source) -> None:
    """Refuse a configuration of more blocks than the files hold tensors, before any are made.

    Raises:
        UserError: it is one.
    """
    blocks = getattr(config.get_text_config(), "num_hidden_layers", 1)
    if blocks > claim.tensors:
        raise UserError(
            f"got {source.name!r}, whose config.json describes {blocks} blocks, expected at most "
            f"the {claim.tensors} tensors that its files hold; {CHECK_CONFIG}, or {_REMEDY}"
        )


def check_fits(claim: Claim, skeleton: PreTrainedModel, source: Source) -> None:
    """Refuse a configuration that asks for more than the files hold, before memory is taken.

    Args:
        claim: what the files hold.
        skeleton: the model without numbers.
        source: where it comes from.

    Raises:
        UserError: it does.
    """
    left_out = "|".join(getattr(skeleton, "_keys_to_ignore_on_load_missing", None) or ["$^"])
    parameters = skeleton.named_parameters()  # tied ones once
    needed = sum(p.numel() for name, p in parameters if not re.search(left_out, name))
    packed = getattr(skeleton.config, "quantization_config", None) is not None
    held = 8 * claim.size if packed else claim.numbers  # packed: at least a bit for each
    if needed > held:
        raise UserError(
            f"got {source.name!r}, whose config.json describes {needed} numbers, expected at most "
            f"the {held} that its files hold; {CHECK_CONFIG}, or {_REMEDY}"
        )
    tables = sum(buffer.numel() * buffer.element_size() for buffer in skeleton.buffers())
    if tables > claim.size + _MOST_BUFFER_BYTES:
        raise UserError(
            f"got {source.name!r}, whose config.json asks for tables of {tables} bytes beside "
            f"weights of {claim.size}, expected less; {CHECK_CONFIG}"
        )


def check_complete(info: dict[str, Any], skeleton: PreTrainedModel, source: Source) -> None:
    """Refuse a model with parameters that no file held: transformers fills them at random.

    Args:
        info: what `from_pretrained` says of its loading.
        skeleton: the model without numbers; tied parameters and buffers are not missed.
        source: where it comes from.

    Raises:
        UserError: some are missing.
    """
    own = {name for name, _ in skeleton.named_parameters()}
    missing = sorted(own.intersection(info["missing_keys"]))
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise UserError(
            f"got {source.name!r}, whose files lack the weights {', '.join(missing[:_SHOWN])}"
            f"{more}, expected all that its config.json describes; {_REMEDY}"
        )


def _claim(paths: list[Path]) -> Claim:
    entries = [entry for path in paths for entry in TensorFile(path).entries.values()]
    sizes = [math.prod(entry.shape) for entry in entries]
    held = sum(n * entry.dtype.itemsize for n, entry in zip(sizes, entries, strict=True))
    return Claim(len(entries), sum(sizes), held)


def _shards(source: Source, index: Path, expected: str) -> list[Path]:
    """The files that an index names, all of them in its own folder."""
    raw = _read(index, _MOST_INDEX_BYTES)
    places = raw.get("weight_map")
    if not isinstance(places, dict) or not places or not isinstance(raw.get("metadata"), dict):
        raise UserError(f"{index} is damaged: expected metadata and a weight_map; {_REMEDY}")
    for name in places.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise UserError(
                f"{index} names the file {str(name)[:80]!r}, expected safetensors in the same "
                f"folder; {_REMEDY}"
            )
    paths = []
    for name in sorted({*places.values()}):
        with source.refused(expected):
            path = source.file(name)
        if path is None:
            raise UserError(f"{index} names {name[:80]!r}, which is not there; {_REMEDY}")
        paths.append(path)
    return paths


def _read(path: Path, most_bytes: int) -> dict[str, Any]:
    return read_json_object(
        path, missing=f"{path} is gone; {_REMEDY}", remedy=_REMEDY, most_bytes=most_bytes,
        finite=False,
    )  # fmt: skip


def _no_weights(source: Source, expected: str) -> UserError:
    folder = Path(source.name)
    if source.offline:
        return source.refusal(
            "its weights are not in the local cache, and the hub cannot be reached",
            expected,
            "go online",
        )
    if not folder.is_dir():
        return source.refusal(
            "it has no safetensors weights",
            expected,
            "give a revision that has them, because unpickling can run any code",
        )
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    found = f"only pickled weights ({pickles[0]})" if pickles else "no weights"
    advice = "convert them, because unpickling can run any code" if pickles else "check the path"
    return UserError(f"got {source.name!r} with {found}, expected {expected}; {advice}")
