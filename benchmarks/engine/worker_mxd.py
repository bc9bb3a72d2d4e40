"""mxd's own step: the same `Student.step` that `mxd fit` runs."""

import torch
from benchmarks.engine.protocol import Case, Prepared, optimizer_tensors, serve


def prepare(case: Case) -> Prepared:
    """A student of a case, built as `mxd.training.build` builds it."""
    from mxd.layers import build
    from mxd.training import OptimizerRecipe, Schedule, Student
    from mxd.training.precision import autocast

    device = torch.device(case.device)
    torch.manual_seed(case.seed)
    layer = build(
        case.architecture,
        d_in=case.d_in,
        d_out=case.d_out,
        d_hidden=case.d_hidden,
        activation="gelu",
        glu=False,
        k=case.k,
        width=case.n,
    ).to(device)
    recipe = OptimizerRecipe(batch_tokens=case.tokens)
    x, y = case.data()
    layer.start_bias_at(y.mean(0))
    student = Student(
        "student",
        "site",
        layer,
        lr=recipe.default_lr,
        seed=case.seed,
        recipe=recipe,
        schedule=Schedule.of(recipe, 1_000_000_000),
    )
    return Prepared(
        step=lambda: student.step(x, y, autocast(case.dtype, device)),
        parameters=list(layer.parameters()),
        state=lambda: optimizer_tensors(student._optimizer),
        comprises="mxd.training.Student.step: encode, decode, normalised squared error, backward, "
        "fused AdamW, zero_grad, counters of loss, L0 and silent units"
        + ("; forward under bf16 autocast" if case.dtype == "bf16" else ""),
    )


if __name__ == "__main__":
    from mxd.training.kept_memory import kept_memory

    with kept_memory():  # as `mxd.fit` does
        serve(prepare, ("mixture-of-decoders",))
