"""`mxd harvest`: keep a model's activations on disk, for any number of trainings."""

import re
import sys
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from mxd.cli._harvest_screen import harvest_progress
from mxd.cli._options import PREFETCH_OPTION, SITE_OPTIONS, options, source_options
from mxd.cli._paths import check_json_target, lasting, write_json
from mxd.cli._places import PLACE_OPTIONS
from mxd.cli._recipe import text_from_flags
from mxd.cli._screen import console
from mxd.cli._types import COUNT, DEVICE, with_config
from mxd.data import Manifest, check_target, read_manifest, readable
from mxd.demo import resolve_model
from mxd.errors import UserError
from mxd.host import load_model, load_tokenizer
from mxd.training import HarvestRecipe, harvest

_UNITS = {"": 1, "B": 1} | {
    prefix + end: base ** (power + 1)
    for power, prefix in enumerate("KMGT")
    for end, base in (("B", 1000), ("iB", 1024))
}
_ENDS = {
    "tokens": "all the tokens that were asked for",
    "text": "the text was used up",
    "size": "the bound on the size was reached",
}
_NEITHER_HERE = {
    "exclude_from_training": None,
    "exclude_from_evaluation": None,
    "on_exhausted": "stop",
}
"""Flags of a training that a harvest has no use for: a cache holds every token."""


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes, with or without a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """From text or a number."""
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?(?:e[0-9]{1,2})?) ?([A-Za-z]*)", str(value))
        units = {unit.lower(): factor for unit, factor in _UNITS.items()}
        factor = units.get(found[2].lower()) if found else None
        if found is None or factor is None or not 1 <= float(found[1]) * factor < 1 << 53:
            self.fail(
                f"got {value!r}, expected a size such as 20GB, 512MiB or a number of bytes",
                param,
                ctx,
            )
        return int(float(found[1]) * factor)


@click.command("harvest")
@click.argument("model")
@options(source_options())
@options(SITE_OPTIONS)
@click.option(
    "--tokens", type=COUNT,
    help="Tokens to keep, rounded up to whole passes of the model; fewer where the text ends.  "
    "[required]",
)  # fmt: skip
@click.option(
    "--max-size", type=Size(),
    help="Bound on the size of the shards, such as 20GB, 512MiB or a number of bytes; the harvest "
    "ends before it is passed.  [default: none]",
)  # fmt: skip
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float32"]), default="bfloat16", show_default=True,
    help="Type that activations are stored in.",
)  # fmt: skip
@click.option(
    "--model-dtype", type=click.Choice(["float32", "bfloat16", "float16", "auto"]),
    default="float32", show_default=True, help="Type that the language model is loaded in.",
)  # fmt: skip
@click.option(
    "--harvest-contexts", type=COUNT, default=32, show_default=True,
    help="Contexts in a forward pass of the language model.",
)  # fmt: skip
@options([PREFETCH_OPTION])
@click.option(
    "--seed", type=click.IntRange(min=0), default=42, show_default=True,
    help="Seed of the choice of documents that are held out.",
)  # fmt: skip
@click.option(
    "--device", type=DEVICE, default="cpu", show_default=True, help="Such as cpu, cuda, cuda:1."
)
@options(PLACE_OPTIONS)
@click.option("--revision", help="Commit or branch of the model on the hub.")
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="Folder of the cache; a harvest that was interrupted there goes on.  "
    "[default: mxd-activations-MODEL]",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Start anew, replacing the cache in --out.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path),
    help="File for the manifest of the cache, as in its manifest.json.",
)  # fmt: skip
@with_config
def harvest_activations(model: str, **flags: Any) -> None:
    """Run MODEL over text once and keep what enters and leaves its MLPs on disk.

    MODEL is as in `mxd fit`, which then trains from the cache with --activations. The same command
    goes on where it was interrupted, and leaves a finished cache as it is.
    """
    recipe = _recipe(flags)
    check_json_target(flags["json_file"])
    out = flags["out"] or Path(f"mxd-activations-{Path(model).name}")
    check_target(out, None, overwrite=flags["overwrite"])
    resolved, screen = resolve_model(model), console()
    host = load_model(
        resolved,
        device=recipe.device,
        dtype=recipe.model_dtype,
        revision=flags["revision"],
        device_map=flags["device_map"],
        load_in=recipe.load_in,
    )
    tokenizer = load_tokenizer(resolved, revision=flags["revision"])
    with _keeping(out), harvest_progress(screen, out) as progress:
        manifest = harvest(
            host,
            tokenizer,
            recipe,
            out,
            overwrite=flags["overwrite"],
            base_model=model if resolved != model else lasting(model),
            command=["mxd", *sys.argv[1:]],
            on_progress=progress,
        )
    write_json(flags["json_file"], manifest.to_dict())
    _show(screen, model, out, manifest, new=progress.was_called)


def _recipe(flags: dict[str, Any]) -> HarvestRecipe:
    if flags["tokens"] is None:
        raise UserError("got no number of tokens, expected --tokens, such as --tokens 2e6")
    return HarvestRecipe(
        text=text_from_flags({**flags, **_NEITHER_HERE}),
        layers=flags["layers"] or (),
        sites=flags["site"] or (),
        model_dtype=flags["model_dtype"],
        load_in=flags["load_in"],
        **{
            name: flags[name]
            for name in (
                "tokens", "dtype", "max_size", "harvest_contexts", "prefetch", "seed", "device",
            )
        },
    )  # fmt: skip


@contextmanager
def _keeping(out: Path) -> Iterator[None]:
    """Say on Ctrl-C what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        try:
            found = read_manifest(out)
        except UserError:
            raise KeyboardInterrupt from None
        raise click.Abort(
            f"{len(found.shards)} finished shards with {found.tokens:,} tokens are in {out}; give "
            "the same command again to go on after them"
        ) from None


def _show(screen: Console, model: str, out: Path, manifest: Manifest, *, new: bool) -> None:
    ended = _ENDS.get(str(manifest.ended_because))
    state = "" if new else "finished already: "
    screen.print(
        f"\nCache: {out}\n{state}{manifest.tokens:,} tokens, {_count(manifest.sites, 'site')}, "
        f"{_count(manifest.shards, 'shard')}, {readable(manifest.bytes)} ({ended})\n"
        f"Next: mxd fit {model} --activations {out} --layers …",
        markup=False,
    )


def _count(of: Sized, name: str) -> str:
    return f"{len(of)} {name}{'' if len(of) == 1 else 's'}"
