"""Peak memory of real trainings beside what `mxd plan` predicts of them (Linux).

    python benchmarks/plan_check.py                 # all cases, some 15 minutes on two cores
    python benchmarks/plan_check.py --only gpt2-wide

Each case is trained by `mxd.fit` in a process of its own, or in two under torchrun; measured is
the kernel's high-water mark of its resident memory (VmHWM), of two processes the higher one. The
constants of `mxd.planning.memory` were fitted on the cases named `calibrate`, and on no other.
Writes `benchmarks/results/plan-check.json` and the table of docs/scaling.md.
"""

import argparse
import datetime as dt
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYER, CONTEXT, STEPS = 3, 128, 6
BEGIN, END = "<!-- check:begin -->", "<!-- check:end -->"


@dataclass(frozen=True)
class Case:
    """A training."""

    name: str
    """What it is called."""
    role: str
    """`calibrate` or `check`."""
    model: str
    """Bundled model, by architecture."""
    architectures: tuple[str, ...]
    """One layer of each."""
    width: int
    """N."""
    batch_tokens: int
    """Tokens in a step."""
    buffer_contexts: int
    """Contexts in the shuffle buffer."""
    harvest_contexts: int = 32
    """Contexts in a pass."""
    layers: tuple[int, ...] = (LAYER,)
    """Blocks."""
    k: int = 8
    """K."""
    micro_tokens: int | None = None
    """Tokens of the dense part at one time."""
    buffer_dtype: str = "float32"
    """Type of the buffer."""
    d_hidden: int | None = None
    """H, where it is not the model's own."""
    checkpoints: bool = False
    """Whether checkpoints are written."""
    layout: str | None = None
    """How it is divided over processes; None for one process."""

    @property
    def ranks(self) -> int:
        """How many processes."""
        return 1 if self.layout is None else int(self.layout.partition("=")[2])

    @property
    def tokens(self) -> int:
        """A budget that fills the buffer, and some steps."""
        return self.buffer_contexts * CONTEXT + STEPS * self.batch_tokens


ALL_THREE = ("mxd", "transcoder", "skip_transcoder")
CASES = (
    Case("gpt2-tiny", "calibrate", "gpt2", ("mxd",), 512, 512, 64),
    Case("llama-tiny", "calibrate", "llama", ("mxd",), 512, 512, 64),
    Case("gpt2-buffer", "calibrate", "gpt2", ("transcoder",), 2_048, 1_024, 512),
    Case("llama-wide", "calibrate", "llama", ("mxd",), 98_304, 512, 64),
    Case("gpt2-batch", "calibrate", "gpt2", ("mxd",), 8_192, 8_192, 128, d_hidden=3_072),
    Case("gpt2-wide", "calibrate", "gpt2", ("mxd",), 196_608, 512, 128),
    Case("llama-wider", "check", "llama", ("mxd",), 229_376, 1_024, 192),
    Case("llama-transcoder", "check", "llama", ("transcoder",), 131_072, 1_024, 256),
    Case("gpt2-three", "check", "gpt2", ALL_THREE, 49_152, 1_024, 128),
    Case("llama-three-batch", "check", "llama", ALL_THREE, 24_576, 4_096, 256),
    Case("gpt2-large-buffer", "check", "gpt2", ("mxd",), 4_096, 512, 1_536),
    Case("llama-two-sites", "check", "llama", ("mxd",), 65_536, 1_024, 512, layers=(2, 4)),
    Case("gpt2-hidden", "check", "gpt2", ("mxd", "dense_mlp"), 16_384, 8_192, 128, d_hidden=6_144),
    Case("llama-micro", "check", "llama", ("mxd",), 16_384, 8_192, 128, d_hidden=6_144,
         micro_tokens=1_024),
    Case("gpt2-half-buffer", "check", "gpt2", ("mxd",), 32_768, 1_024, 1_024,
         buffer_dtype="bfloat16"),
    Case("gpt2-checkpoints", "check", "gpt2", ("mxd",), 98_304, 512, 512, checkpoints=True),
    Case("llama-autoencoder", "check", "llama", ("topk_autoencoder",), 98_304, 2_048, 128),
    Case("llama-skip", "check", "llama", ("skip_transcoder",), 65_536, 2_048, 384, k=32),
    Case("gpt2-mlp-transcoder", "check", "gpt2", ("mlp_transcoder",), 40_960, 4_096, 192,
         d_hidden=2_048),
    Case("llama-half-buffer-saved", "check", "llama", ("mxd", "transcoder"), 12_288, 2_048, 768,
         layers=(4,), buffer_dtype="bfloat16", checkpoints=True),
    Case("gpt2-two-data", "check", "gpt2", ("mxd",), 65_536, 1_024, 256, layout="data=2"),
    Case("llama-two-experts", "check", "llama", ("mxd",), 131_072, 1_024, 256,
         layout="experts=2"),
)  # fmt: skip


def main() -> None:
    """Run the cases, print both numbers, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", action="append", help="a case by name; the others stay as before")
    parser.add_argument("--repeats", type=int, default=1, help="processes for each case")
    parser.add_argument("--predict", action="store_true", help="predict anew, measure nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "scaling.md")
    flags = parser.parse_args()
    if flags.worker:
        work(Case(**as_tuples(json.loads(flags.worker))), flags.folder)
        return
    path = flags.out / "plan-check.json"
    before = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else []
    known = {entry["name"]: entry for entry in before}
    for case in CASES:
        wanted = not flags.only or case.name in flags.only
        if wanted and not flags.predict:
            peaks = [measure(case) for _ in range(flags.repeats)]
            highest = statistics.median(max(ranks) for ranks in peaks)
            known[case.name] = {"measured_bytes": int(highest), "peaks": peaks}
        if case.name in known:
            known[case.name] = {**known[case.name], **asdict(case), **predict(case)}
            show(known[case.name])
            flags.out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result(known), indent=2) + "\n", encoding="utf-8")
    write_page(json.loads(path.read_text(encoding="utf-8")), flags.page)


def result(known: dict[str, dict[str, object]]) -> dict[str, object]:
    """The file's content."""
    import torch

    import mxd

    cases = [finished(known[case.name]) for case in CASES if case.name in known]
    checks = [case for case in cases if case["role"] == "check"]
    largest = {
        f"largest_error_of_checks{beyond}": max(
            (abs(case[f"relative_error{beyond}"]) for case in checks), default=None
        )
        for beyond in ("", "_beyond_process")
    }
    return {
        "what": __doc__.splitlines()[0],
        "date": dt.date.today().isoformat(),
        "threads": 1,
        "versions": {"mxd": mxd.__version__, "torch": torch.__version__},
        **largest,
        "cases": cases,
    }


def finished(entry: dict[str, object]) -> dict[str, object]:
    """A case with how far its prediction is off, with the bare process and without it."""
    from mxd.planning.memory import PROCESS_BYTES

    measured, predicted = entry["measured_bytes"], entry["predicted_bytes"]
    return {
        **entry,
        "relative_error": predicted / measured - 1,
        "relative_error_beyond_process": (predicted - PROCESS_BYTES) / (measured - PROCESS_BYTES)
        - 1,
    }


def write_page(found: dict[str, object], path: Path) -> None:
    """Replace what is between the page's markers."""
    head = ["case", "role", "layers", "N", "tokens a step", "measured", "predicted", "off",
            "off, beyond the process"]  # fmt: skip
    rows = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head))]
    for one in found["cases"]:
        layers = ", ".join(one["architectures"]) + ("" if len(one["layers"]) == 1 else ", 2 sites")
        layers += "" if one["layout"] is None else f", {one['layout']}"
        cells = [one["name"], one["role"], layers, f"{one['width']:,}", f"{one['batch_tokens']:,}"]
        cells += [f"{one[key] / 1e6:,.0f} MB" for key in ("measured_bytes", "predicted_bytes")]
        cells += [f"{one[key]:+.1%}" for key in ("relative_error", "relative_error_beyond_process")]
        rows.append("| " + " | ".join(cells) + " |")
    line = (
        f"Measured on {found['date']} with torch {found['versions']['torch']}, one thread for each "
        "process. Largest error of the cases named `check`: "
        f"{found['largest_error_of_checks']:.1%}; beyond the process "
        f"{found['largest_error_of_checks_beyond_process']:.1%}."
    )
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    table = "\n".join(rows)
    path.write_text(f"{before}{BEGIN}\n{table}\n\n{line}\n{END}{after}", encoding="utf-8")


def show(entry: dict[str, object]) -> None:
    """A line on the screen."""
    entry = finished(entry)
    print(
        f"{entry['role']:9} {entry['name']:18} measured {entry['measured_bytes'] / 1e6:7,.0f} MB, "
        f"predicted {entry['predicted_bytes'] / 1e6:7,.0f} MB ({entry['predicted_phase']}): "
        f"{entry['relative_error']:+.1%}, beyond the process "
        f"{entry['relative_error_beyond_process']:+.1%}",
        flush=True,
    )


def predict(case: Case) -> dict[str, object]:
    """What the plan says of a case."""
    from mxd.demo import bundled_model
    from mxd.host import find_site
    from mxd.host.skeleton import load_skeleton
    from mxd.planning import Training, describe_model, device_of, make_plan, plan_students
    from mxd.training import LayerRecipe
    from mxd.training.distributed import Layout

    skeleton = load_skeleton(bundled_model(case.model), dtype="float32")
    shape = describe_model(
        skeleton,
        [find_site(skeleton, layer) for layer in case.layers],
        name=case.model,
        contexts=case.harvest_contexts,
        length=CONTEXT,
    )
    students = plan_students(
        shape.sites,
        architectures=case.architectures,
        ks=(case.k,),
        recipe=LayerRecipe(width=case.width, d_hidden=case.d_hidden),
        batch_tokens=case.batch_tokens,
        micro_tokens=case.micro_tokens,
    )
    training = Training(
        model=shape,
        students=students,
        tokens=case.tokens,
        batch_tokens=case.batch_tokens,
        buffer_tokens=case.buffer_contexts * CONTEXT,
        buffer_element=2 if case.buffer_dtype == "bfloat16" else 4,
        checkpoints=case.checkpoints,
    )
    layout = None if case.layout is None else Layout.parse(case.layout, case.ranks)
    plan = make_plan(training, device_of("cpu"), devices=case.ranks, layout=layout)
    peak = plan.option.device_peak
    return {
        "predicted_bytes": peak.bytes,
        "predicted_phase": peak.phase,
        "predicted_parts": {item.name: item.bytes for item in peak.items},
    }


def measure(case: Case) -> list[int]:
    """Peaks of resident memory of a training's processes, which are fresh ones, in bytes."""
    start = [sys.executable]
    if case.ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                  str(case.ranks)]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*start, str(Path(__file__).resolve()), "--folder", folder,
             "--worker", json.dumps(asdict(case))],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{case.name}: exit code {done.returncode}\n{done.stderr}")
        return [int(path.read_text()) for path in sorted(Path(folder).glob("peak-*"))]


def work(case: Case, folder: Path) -> None:
    """Train a case and write the peak of this process."""
    from mxd.training.distributed import world

    if case.ranks == 1:
        train(case, folder / "run")
    else:
        with world("cpu"):
            train(case, folder / "run")
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    peak = int(line.split()[1]) * 1024
    (folder / f"peak-{os.environ.get('RANK', '0')}").write_text(str(peak))


def train(case: Case, out: Path) -> None:
    """The training of a case, by the library."""
    import mxd
    from mxd.data import PYTHON_STDLIB
    from mxd.demo import bundled_model
    from mxd.host import load_model, load_tokenizer
    from mxd.training import LayerRecipe, StudentSpec, TextRecipe, changed, named_recipe
    from mxd.training.checkpoints import CheckpointOptions

    path = bundled_model(case.model)
    model, tokenizer = load_model(path), load_tokenizer(path)
    recipe = named_recipe(
        "small",
        TextRecipe(source=PYTHON_STDLIB),
        layers=case.layers,
        tokens=case.tokens,
        students=tuple(StudentSpec(architecture=a, k=case.k) for a in case.architectures),
        layer=LayerRecipe(width=case.width, d_hidden=case.d_hidden),
        precision="float32",
    )
    recipe = changed(
        recipe,
        optimizer={"batch_tokens": case.batch_tokens, "micro_tokens": case.micro_tokens},
        buffer={
            "contexts": case.buffer_contexts,
            "harvest_contexts": case.harvest_contexts,
            "dtype": case.buffer_dtype,
        },
    )
    checkpoints = CheckpointOptions(every_steps=2, keep=1) if case.checkpoints else None
    mxd.fit(model, tokenizer, recipe, out=out, checkpoints=checkpoints, layout=case.layout)


def as_tuples(fields: dict[str, object]) -> dict[str, object]:
    """Lists as JSON gives them, back as tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}


if __name__ == "__main__":
    main()
