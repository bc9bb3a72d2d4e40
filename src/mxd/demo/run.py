"""The main job, end to end: train, graft, measure, look, steer, report."""

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from mxd._durable_files import replace_text
from mxd.data import PYTHON_STDLIB, Contexts, SpreadContexts, pack
from mxd.demo.models import BUNDLED, bundled_model
from mxd.errors import UserError
from mxd.evaluation import (
    Evaluation,
    SteeredText,
    UnitExamples,
    evaluate,
    find_firing,
    show_unit,
    steer,
    units_worth_seeing,
)
from mxd.host import load_model, load_tokenizer
from mxd.layers import Layer, SparseLayer
from mxd.report import publish
from mxd.training import (
    Progress,
    Recipe,
    Run,
    StudentSpec,
    TextRecipe,
    evaluation_documents,
    fit,
    named_recipe,
    store_evaluation,
)

DEMO_TOKENS = 200_000
"""Training tokens: what two cores manage in under six minutes, evaluation included."""
EVALUATION_TOKENS = 40_000
LAYER = 3
ARCHITECTURES = ("mxd", "transcoder", "skip_transcoder")
KS = (4, 8, 16)
CONTROL_K = 8
PROMPT = "The function returns "


@dataclass(frozen=True)
class DemoResult:
    """What the demo found."""

    run: Run
    """The trained layers."""
    evaluation: Evaluation
    """The document of `mxd demo --json`."""
    student: str
    """The student whose units are shown: the MxD at the middle K."""
    units: list[UnitExamples]
    """Three of its experts in five contexts each."""
    steered: SteeredText | None
    """A text with and without the first of them turned up."""
    report: Path
    """report.html."""


def demo_recipe(tokens: int = DEMO_TOKENS, seed: int = 42) -> Recipe:
    """What the demo trains: three architectures at three K, and two controls at the middle K."""
    pairs = [(name, k) for name in ARCHITECTURES for k in KS]
    pairs += [("mlp_transcoder", CONTROL_K), ("dense_mlp", CONTROL_K)]
    return named_recipe(
        "small",
        TextRecipe(source=PYTHON_STDLIB),
        layers=(LAYER,),
        students=tuple(StudentSpec(architecture=a, k=k, seed=seed) for a, k in pairs),
        tokens=tokens,
        seed=seed,
        log_every=20,
    )


def run_demo(
    arch: str,
    out: Path,
    *,
    tokens: int = DEMO_TOKENS,
    seed: int = 42,
    command: Sequence[str] = (),
    on_progress: Callable[[Progress], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
    on_evaluated: Callable[[int], None] | None = None,
) -> DemoResult:
    """Run the demo on a bundled model and write everything into `out`.

    Args:
        arch: `gpt2`, or `llama` for the GLU form.
        out: folder of the run; it must not exist.
        tokens: training tokens.
        seed: seed of everything.
        command: the command line to record.
        on_progress: called during training.
        on_stage: called with a sentence when a new stage begins.
        on_evaluated: called with the tokens evaluated on so far.

    Raises:
        UserError: unknown architecture, folder in the way, no source of the standard library.
    """
    say = on_stage or (lambda _text: None)
    path = bundled_model(arch)
    model, tokenizer = load_model(path), load_tokenizer(path)
    recipe = demo_recipe(tokens, seed)
    say(f"Training {len(recipe.students)} layers for {BUNDLED[arch]}, block {LAYER}")
    run = fit(
        model,
        tokenizer,
        recipe,
        out=out,
        base_model=BUNDLED[arch],
        command=command,
        on_progress=on_progress,
    )
    say("Putting each layer back into the model and measuring on held-out files")
    contexts = SpreadContexts(
        pack(evaluation_documents(recipe.text, recipe.seed), tokenizer), EVALUATION_TOKENS
    )
    evaluation = _evaluate(model, tokenizer, run, contexts, on_evaluated)
    document = {"kind": "faithfulness", "command": shlex.join(command), **evaluation.to_dict()}
    store_evaluation(run, document, name="held-out")
    say("Looking for experts worth seeing")
    name, units, steered = _look(model, tokenizer, run, contexts)
    shown = {
        "student": name,
        "units": [unit.to_dict() for unit in units],
        "steered": None if steered is None else asdict(steered),
    }
    report = _write_report(out, arch, run, document, shown, command)
    return DemoResult(run, evaluation, name, units, steered, report)


def _evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
    contexts: Iterable[Contexts],
    on_progress: Callable[[int], None] | None,
) -> Evaluation:
    return evaluate(
        model,
        run.layers,
        contexts,
        tokens=EVALUATION_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        text=f"held-out part of {PYTHON_STDLIB}",
        on_progress=on_progress,
    )


def _write_report(
    out: Path,
    arch: str,
    run: Run,
    document: dict[str, Any],
    shown: dict[str, Any],
    command: Sequence[str],
) -> Path:
    replace_text(out / "eval" / "units.json", json.dumps(shown, indent=2) + "\n")
    return publish(
        out,
        title=f"{BUNDLED[arch]}, block {LAYER}: an MLP taken apart",
        record=run.record,
        evaluation=document,
        command=shlex.join(command),
    )


def _look(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, run: Run, contexts: Iterable[Contexts]
) -> tuple[str, list[UnitExamples], SteeredText | None]:
    """Three experts in their contexts, and a text with the first of them turned up."""
    site, students = next(iter(run.layers.items()))
    name, layer = _shown(students)
    firing = find_firing(model, site, layer, contexts, tokens=EVALUATION_TOKENS)
    worth = units_worth_seeing(firing, dull_token_ids=tokenizer.all_special_ids)
    units = [show_unit(firing, unit, tokenizer) for unit in worth]
    if not units:
        return name, [], None
    strength = round(4 * units[0].largest, 1)
    steered = steer(
        model, tokenizer, site, layer, unit=units[0].unit, strength=strength, prompt=PROMPT
    )
    return name, units, steered


def _shown(students: dict[str, Layer]) -> tuple[str, SparseLayer]:
    for name, layer in students.items():
        if name.startswith(f"mxd-k{CONTROL_K}-") and isinstance(layer, SparseLayer):
            return name, layer
    raise UserError(f"got no MxD at K = {CONTROL_K} among {', '.join(students)}")
