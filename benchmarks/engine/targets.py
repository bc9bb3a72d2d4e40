"""What the engine is meant to reach, and whether a result reaches it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Verdict(NamedTuple):
    """One target, measured."""

    what: str
    """What is compared."""
    target: str
    """The bound, in words."""
    measured: str
    """The ratio, or why there is none."""
    met: str
    """`yes`, `no` or `not measured`."""


class Target(NamedTuple):
    """How many times better mxd shall be than somebody, on the first shape."""

    architecture: str
    other: str
    other_dtype: str
    own_dtype: str
    factor: float
    what: str
    figure: str = "median"


TARGETS = (
    Target("mxd", "obvious", "float32", "float32", 2.8, "MxD step, float32, obvious ÷ mxd"),
    Target("mxd", "obvious", "float32", "bf16", 8.0, "MxD step, obvious float32 ÷ mxd bf16"),
    Target(
        "mxd", "obvious", "float32", "float32", 3.0,
        "MxD step's memory beyond parameters, gradients and optimizer state, obvious ÷ mxd",
        figure="beyond_bytes",
    ),
    Target("transcoder", "sparsify", "float32", "float32", 1.3,
           "transcoder step, float32, sparsify ÷ mxd"),
    Target("transcoder", "sparsify", "bf16", "bf16", 2.5,
           "transcoder step, bf16, sparsify ÷ mxd"),
    Target("transcoder", "saelens", "float32", "float32", 1.3,
           "transcoder step, float32, SAELens' autoencoder ÷ mxd"),
    Target("transcoder", "saelens", "bf16", "bf16", 2.5,
           "transcoder step, bf16, SAELens' autoencoder ÷ mxd"),
)  # fmt: skip
"""Ratios on a CPU, at GPT-2's shape."""


def verdicts(document: Mapping[str, Any]) -> list[Verdict]:
    """Every target beside what a result says about it."""
    cells = [cell for cell in document["cells"] if cell["part"] == "steps"]
    return [_verdict(target, cells, document) for target in TARGETS]


def _verdict(
    target: Target, cells: Sequence[Mapping[str, Any]], document: Mapping[str, Any]
) -> Verdict:
    bound = f"at least {target.factor:g} ×"
    if target.own_dtype == "bf16" and not document["machine"]["bf16_native"]:
        why = "this processor emulates bf16: not a measure of it"
        return Verdict(target.what, bound, why, "not measured")
    other = _cell(cells, target.architecture, target.other_dtype)
    own = _cell(cells, target.architecture, target.own_dtype)
    if other is None or own is None or other["tokens"] != own["tokens"]:
        return Verdict(target.what, bound, "–", "not measured")
    theirs = other["results"].get(target.other, {})
    ours = own["results"].get("mxd", {})
    if theirs.get(target.figure) is None or ours.get(target.figure) is None:
        why = theirs.get("error") or theirs.get("skipped") or "–"
        return Verdict(target.what, bound, why, "not measured")
    ratio = theirs[target.figure] / max(ours[target.figure], 1e-9)
    met = "yes" if ratio >= target.factor else "no"
    return Verdict(target.what, bound, f"{ratio:.2f} ×", met)


def _cell(
    cells: Sequence[Mapping[str, Any]], architecture: str, dtype: str
) -> Mapping[str, Any] | None:
    for cell in cells:
        if cell["architecture"] == architecture and cell["dtype"] == dtype:
            return cell
    return None
