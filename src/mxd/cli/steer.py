"""`mxd steer`: text with a unit turned up, and the study of what units write."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mxd.cli._judges import JUDGE_OPTIONS, endpoint_judges, offline_judge
from mxd.cli._options import options
from mxd.cli._paths import check_json_target, write_json
from mxd.cli._places import place_flags
from mxd.cli._run import (
    MODEL_OPTIONS,
    SITE_OPTION,
    STUDENT_OPTION,
    Opened,
    chosen_layers,
    command_line,
    one_sparse_layer,
    open_with_model,
)
from mxd.cli._screen import console
from mxd.cli._steer_screen import show_judges, show_samples, show_study, study_progress
from mxd.cli._types import COUNT, INTEGERS, Listed, with_config
from mxd.data import SpreadContexts, pack
from mxd.errors import UserError
from mxd.evaluation import find_firing, steer
from mxd.evaluation.steering import (
    Sampling,
    SteeringStudy,
    Strength,
    StudyOptions,
    largest_coefficients,
    steering_study,
)
from mxd.evaluation.steering.sampling import encode_prompt
from mxd.evaluation.steering.steer import check_unit
from mxd.training import evaluation_documents, store_result

STRENGTHS = Listed(Strength.parse, "strengths, such as 100, or 4x for a unit's own maximum")
_STEERING: list[Any] = [
    click.option(
        "--expert", type=INTEGERS,
        help="Units to turn up, one after the other.  [default: none]",
    ),
    click.option(
        "--strength", type=STRENGTHS, default="100", show_default=True,
        help="What to add to the coefficient of an --expert: a number, or 4x for four times its "
        "largest on held-out text.",
    ),
    click.option("--force", is_flag=True, help="Also turn up an expert that never fires."),
    click.option(
        "--study", type=COUNT,
        help="Instead: steer with this many units of each layer and have them judged.  "
        "[default: none]",
    ),
    click.option(
        "--units", type=click.Choice(["live", "first", "random"]), default="live",
        show_default=True,
        help="Units of a study: the first that fire on held-out text, the first there are (as in "
        "the paper), or random ones that fire.",
    ),
    click.option(
        "--strengths", type=STRENGTHS, default="1x,4x,16x,100", show_default=True,
        help="Strengths of a study, as in --strength.",
    ),
    click.option(
        "--random-directions/--no-random-directions", default=True, show_default=True,
        help="In a study, also steer with random directions of each unit's norm.",
    ),
]  # fmt: skip
_SAMPLING: list[Any] = [
    click.option(
        "--prompt", default="Let's talk about ", show_default=True, help="Where texts begin."
    ),
    click.option("--samples", type=COUNT, default=10, show_default=True, help="Texts in a set."),
    click.option(
        "--new-tokens", type=COUNT, default=32, show_default=True, help="Tokens of each text."
    ),
    click.option(
        "--temperature", type=float, default=1.0, show_default=True,
        help="What logits are divided by.",
    ),
    click.option(
        "--top-p", type=float, default=0.1, show_default=True,
        help="Sample from the fewest tokens that hold this share of the probability.",
    ),
    click.option(
        "--frequency-penalty", type=float, default=1.0, show_default=True,
        help="Nats off a token for each time that the text so far has it.",
    ),
    click.option(
        "--seed", type=click.IntRange(min=0), default=42, show_default=True, help="Of the draws."
    ),
    click.option(
        "--tokens", type=COUNT, default=20_000, show_default=True,
        help="Tokens of held-out text to see on which units fire, and how much.",
    ),
    click.option(
        "--batch-rows", type=COUNT, default=256, show_default=True,
        help="Texts of a study written at the same time.",
    ),
]  # fmt: skip


@click.command("steer")
@click.argument("run", type=click.Path(path_type=Path))
@options([*_STEERING, *_SAMPLING, *JUDGE_OPTIONS, STUDENT_OPTION, SITE_OPTION, *MODEL_OPTIONS])
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for the result.")
@with_config
def steer_run(run: Path, json_file: Path | None, **flags: Any) -> None:
    """Let the model of RUN write with a unit of a layer turned up.

    With --expert prints samples with and without; with --study scores what many units write, by
    shared concept and fluency, into the run's folder (eval/steering.json).
    """
    check_json_target(json_file)
    if (flags["expert"] is None) == (flags["study"] is None):
        raise click.UsageError("give either --expert, to read samples, or --study, to score them")
    sampling = Sampling(
        samples=flags["samples"],
        max_new_tokens=flags["new_tokens"],
        temperature=flags["temperature"],
        top_p=flags["top_p"],
        frequency_penalty=flags["frequency_penalty"],
        seed=flags["seed"],
    )
    if flags["study"] is None:
        document = _samples(run, sampling, flags)
        write_json(json_file, document)
    else:
        _study(run, sampling, json_file, flags)


def _samples(run: Path, sampling: Sampling, flags: dict[str, Any]) -> dict[str, Any]:
    if len(flags["strength"]) != 1:
        raise UserError("got several values of --strength, expected one; a --study sweeps them")
    (strength,) = flags["strength"]
    opened = open_with_model(run, **place_flags(flags))
    site, name, layer = one_sparse_layer(opened.run, flags["student"], flags["site"])
    for unit in flags["expert"]:
        check_unit(layer, unit)
    _check_prompt(opened, sampling, flags)
    firing = find_firing(
        opened.model, site, layer, _contexts(opened, flags["tokens"]), tokens=flags["tokens"]
    )
    maxima = largest_coefficients(firing)
    dead = [unit for unit in flags["expert"] if not maxima[unit] > 0]
    if dead and (strength.unit_of == "max" or not flags["force"]):
        remedy = (
            "give a strength of its own, such as 100, and --force"
            if strength.unit_of == "max"
            else "choose another, read more with --tokens, or turn it up all the same with --force"
        )
        raise UserError(
            f"got unit {', '.join(map(str, dead))} of {name}, which never fires on "
            f"{firing.tokens.numel():,} tokens of held-out text; {remedy}"
        )
    screen, found = console(), []
    for unit in flags["expert"]:
        added = strength.of(float(maxima[unit]))
        texts = steer(
            opened.model, opened.tokenizer, site, layer, unit=unit, strength=added,
            prompt=flags["prompt"], **asdict(sampling),
        )  # fmt: skip
        show_samples(screen, texts, float(maxima[unit]))
        found.append({**asdict(texts), "maximum": float(maxima[unit])})
    document = {
        "kind": "steered", "command": command_line(), "name": name, "site": site,
        "prompt": flags["prompt"], "protocol": asdict(sampling), "units": found,
    }  # fmt: skip
    store_result(opened.run, document, name="steered")
    return document


def _study(run: Path, sampling: Sampling, json_file: Path | None, flags: dict[str, Any]) -> None:
    wanted = StudyOptions(
        units=flags["study"],
        choice=flags["units"],
        strengths=flags["strengths"],
        random_directions=flags["random_directions"],
        tokens=flags["tokens"],
        prompt=flags["prompt"],
        sampling=sampling,
        batch_rows=flags["batch_rows"],
    )
    opened = open_with_model(run, **place_flags(flags))
    layers = chosen_layers(opened.run, flags["student"], flags["site"])
    _check_prompt(opened, sampling, flags)
    judges: list[Any] = list(endpoint_judges(run, flags))
    contexts = _contexts(opened, flags["tokens"])
    if flags["judge"] == "offline":
        made = offline_judge(opened.model, opened.tokenizer, contexts, flags["prompt"], sampling)
        judges.insert(0, made)
    screen, document = console(), dict[str, Any]()

    def keep(study: SteeringStudy) -> None:
        document.update({"kind": "steering", "command": command_line(), **study.to_dict()})
        store_result(opened.run, document, name="steering")

    with _saying_what_is_kept(run, document):
        study = steering_study(
            opened.model, opened.tokenizer, layers, contexts, judges, wanted,
            on_layer=keep, on_progress=study_progress(screen),
        )  # fmt: skip
    write_json(json_file, document)
    show_study(screen, document)
    show_judges(screen, [(judge.name, judge.usage) for judge in judges])
    if study.stopped:
        raise UserError(
            f"{'; '.join(study.stopped.values())}; everything else is kept in "
            f"{run / 'eval' / 'steering.json'}, and the same command asks for what is missing"
        )


@contextmanager
def _saying_what_is_kept(run: Path, document: dict[str, Any]) -> Iterator[None]:
    """On Ctrl-C and errors, where the finished layers are."""

    def kept() -> str:
        done = [layer["name"] for layer in document.get("layers", [])]
        if not done:
            return "no layer is finished; answers of judges, if any, are kept in the cache"
        return f"{', '.join(done)} finished and kept in {run / 'eval' / 'steering.json'}"

    try:
        yield
    except KeyboardInterrupt:
        raise click.Abort(kept()) from None
    except UserError as error:
        raise UserError(f"{error} ({kept()})" if document else str(error)) from None


def _check_prompt(opened: Opened, sampling: Sampling, flags: dict[str, Any]) -> None:
    """Refuse a prompt that nothing can follow before anything is run."""
    encode_prompt(opened.model, opened.tokenizer, flags["prompt"], room=sampling.max_new_tokens)


def _contexts(opened: Opened, tokens: int) -> SpreadContexts:
    recipe = opened.run.recipe
    documents = evaluation_documents(recipe.text, recipe.seed)
    return SpreadContexts(pack(documents, opened.tokenizer, recipe.text.contexts), tokens)
