"""One layer being trained: precision, options of the layers, counters, dead units."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tests.training._parts import batches, make_student, same_weights

from mxd.layers import Codes, MxD, SparseLayer
from mxd.training import OptimizerRecipe, Student, dead_units_loss
from mxd.training.guard import Guard
from mxd.training.optimizer import LayerAdamW
from mxd.training.precision import autocast

ALL = ["mxd", "transcoder", "skip_transcoder", "topk_autoencoder", "dense_mlp", "mlp_transcoder"]
SPARSE = [name for name in ALL if name != "dense_mlp"]


def train(student: Student, steps: int, *, precision: str = "float32", seed: int = 0) -> Student:
    context = autocast(precision, torch.device("cpu"))
    for x, y in batches(steps, seed=seed):
        student.step(y if student.layer.reads == "output" else x, y, context)
    return student


def sparse(student: Student) -> SparseLayer:
    assert isinstance(student.layer, SparseLayer)
    return student.layer


@pytest.mark.parametrize("architecture", ALL)
def test_step_under_bf16_autocast_keeps_parameters_and_optimizer_in_float32(
    architecture: str,
) -> None:
    student = train(make_student(architecture), 3, precision="bf16")
    assert {p.dtype for p in student.layer.parameters()} == {torch.float32}
    states = [v for state in student._optimizer.state.values() for v in state.values()]
    assert len(states) >= 3 * len(list(student.layer.parameters()))
    assert {state.dtype for state in states} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in student.layer.parameters())


def test_step_under_bf16_autocast_multiplies_in_bf16() -> None:
    exact, rounded = train(make_student(), 5), train(make_student(), 5, precision="bf16")
    assert not same_weights(exact.layer, rounded.layer)
    assert rounded.take_window().nmse == pytest.approx(exact.take_window().nmse, rel=0.05)


@pytest.mark.parametrize("architecture", ALL)
def test_steps_lower_the_error(architecture: str) -> None:
    student = make_student(architecture, width=24, k=6)
    train(student, 5)
    first = student.take_window().nmse
    train(student, 200, seed=1)
    student.take_window()
    train(student, 5, seed=2)
    assert student.take_window().nmse < 0.4 * first


def test_step_follows_the_schedule() -> None:
    student = make_student(steps=10, lr=0.1, decay_share=0.5)
    rates = []
    for x, y in batches(10):
        student.step(x, y, nullcontext())
        rates.append(student.take_window().lr)
    assert rates == pytest.approx([0.1 * student.schedule.factor(step) for step in range(10)])


def test_window_means_the_steps_since_the_last_look() -> None:
    looked, unlooked = make_student(), make_student()
    single = []
    for x, y in batches(4):
        looked.step(x, y, nullcontext())
        unlooked.step(x, y, nullcontext())
        single.append(looked.take_window())
    window = unlooked.take_window()
    assert window.nmse == pytest.approx(sum(w.nmse for w in single) / 4)
    assert window.loss == pytest.approx(sum(w.loss for w in single) / 4)
    assert window.l0 == pytest.approx(sum(w.l0 or 0 for w in single) / 4)


@pytest.mark.parametrize("architecture", ALL)
def test_update_is_that_of_clipped_gradients(architecture: str) -> None:
    mine, plain = (make_student(architecture, clip_norm=1.0).layer for _ in range(2))
    optimizer = LayerAdamW(mine, OptimizerRecipe(clip_norm=1.0), 1e-2)
    oracle = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0)
    guard = Guard(torch.device("cpu"))
    # A common factor would not show in AdamW's steps: some are clipped, and some not.
    for scale in (1e-3, 5.0, 1e-2, 0.5):
        for one, other in zip(mine.parameters(), plain.parameters(), strict=True):
            one.grad = torch.randn_like(one) * scale
            other.grad = one.grad.clone()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        oracle.step()
        optimizer.update(1e-2, torch.tensor(1.0), guard, step=1)
        assert all(p.grad is None for p in mine.parameters())
    for got, expected in zip(mine.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_nothing_moves_from_the_first_step_on_that_is_not_finite(
    bad: str, clip_norm: float | None
) -> None:
    layer = make_student("mxd").layer
    optimizer = LayerAdamW(layer, OptimizerRecipe(clip_norm=clip_norm), 1e-2)
    guard = Guard(torch.device("cpu"))
    seen = []
    for step in range(1, 6):
        for parameter in layer.parameters():
            parameter.grad = torch.ones_like(parameter)
        loss = torch.tensor(float("nan") if bad == "loss" and step == 3 else 1.0)
        if bad == "gradient" and step == 3:
            layer.bias.grad = torch.full_like(layer.bias, float("inf"))
        optimizer.update(1e-2, loss, guard, step)
        moments = optimizer.moments(layer).values()
        seen.append([t.detach().clone() for t in (*layer.parameters(), *moments)])
    assert guard.first_bad() == 3
    assert not all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    for later in seen[2:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[1], later, strict=True))


def test_random_k_draws_differ_and_repeat_with_the_seed() -> None:
    def draws(seed: int) -> list[float | None]:
        student = make_student(k=6, width=40, seed=seed, options={"random_k": True})
        torch.nn.init.ones_(sparse(student).gate_linear.bias)  # every slot is used: L0 is K
        widths = []
        for x, y in batches(8):
            torch.manual_seed(len(widths))  # the global state has no part in it
            student.step(x, y, nullcontext())
            widths.append(student.take_window().l0)
        return widths

    assert draws(0) == draws(0)
    assert draws(0) != draws(1)
    assert len({round(width or 0) for width in draws(0)}) > 2
    assert all(3 <= (width or 0) <= 9 for width in draws(0))


@pytest.mark.parametrize("architecture", ["mxd", "transcoder", "topk_autoencoder"])
def test_unit_norm_rows_stay_unit_after_steps(architecture: str) -> None:
    student = make_student(architecture, options={"unit_norm": True})
    before = sparse(student).unit_rows.detach().clone()
    train(student, 20)
    norms = sparse(student).unit_rows.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    assert not torch.equal(before, sparse(student).unit_rows)


def test_l1_coefficient_lowers_l0_as_it_grows() -> None:
    active = []
    for coefficient in (0.0, 0.1, 1.0):
        student = make_student(
            "transcoder", width=24, options={"sparsity": "l1"}, l1_coefficient=coefficient
        )
        train(student, 80)
        student.take_window()
        train(student, 5, seed=1)
        active.append(student.take_window().l0 or 0)
    assert active[0] > active[1] > active[2]


def test_shared_experts_are_always_on_and_never_dead() -> None:
    student = make_student(options={"shared_experts": 2}, dead_after_tokens=32)
    train(student, 10)
    assert student._counters.silent_tokens[:2].tolist() == [0, 0]
    codes = sparse(student).encode(batches(1)[0][0])
    assert codes.indices[:, :2].eq(torch.arange(2)).all()
    assert codes.values[:, :2].eq(1).all()


def planted_dead(architecture: str, **recipe: Any) -> Student:
    """A student whose units 4 and up cannot win a place among the top k."""
    student = make_student(architecture, width=12, dead_after_tokens=64, **recipe)
    bias = sparse(student).gate_linear.bias
    with torch.no_grad():
        bias[:4], bias[4:] = 5.0, -0.5
    return student


def test_dead_counters_count_tokens_since_the_last_firing() -> None:
    student = planted_dead("transcoder", k=4)
    train(student, 1)
    assert student._counters.silent_tokens.tolist() == [0] * 4 + [32] * 8
    assert student.take_window().dead_fraction == pytest.approx(8 / 12)
    train(student, 2)
    assert student._counters.silent_tokens.tolist() == [0] * 4 + [96] * 8
    with torch.no_grad():
        sparse(student).gate_linear.bias[11] = 20.0
    train(student, 1)
    assert student._counters.silent_tokens[11] == 0
    assert student._counters.silent_tokens[4] == 128


def test_dense_student_has_no_units_to_count() -> None:
    window = train(make_student("dense_mlp"), 2).take_window()
    assert (window.l0, window.dead_fraction) == (None, None)


@pytest.mark.parametrize("architecture", ["transcoder", "topk_autoencoder", "mxd"])
def test_auxk_equals_a_computation_by_hand(architecture: str) -> None:
    layer = sparse(train(planted_dead(architecture), 5)).double()
    x, y = (t.double() for t in batches(1)[0])
    fed = y if layer.reads == "output" else x
    dead = torch.arange(12) >= 4
    residual = (y - layer(fed)).detach()

    centred = fed - layer.bias if layer.reads == "output" else fed
    coefficients = (centred @ layer.gate_linear.weight.T + layer.gate_linear.bias).relu()
    coefficients = torch.where(dead, coefficients, 0.0)
    smallest = coefficients.topk(2).values[:, -1:]
    coefficients = torch.where(coefficients >= smallest, coefficients, 0.0)
    rebuilt = coefficients @ layer.unit_rows
    if isinstance(layer, MxD):
        z = layer.activation(x @ layer.encoder.weight.T + layer.encoder.bias)
        rebuilt = rebuilt * (z @ layer.decoder)
    expected = (residual - rebuilt).square().sum() / residual.square().sum()

    found = dead_units_loss(layer, fed, residual, dead, units=2)
    torch.testing.assert_close(found, expected)
    half = dead_units_loss(layer, fed, residual, dead)  # None takes half of d_out, here 2
    torch.testing.assert_close(half, expected)


def test_auxk_without_dead_units_is_zero() -> None:
    x, y = batches(1)[0]
    layer = sparse(make_student("transcoder"))
    assert dead_units_loss(layer, x, y, torch.zeros(12, dtype=torch.bool)) == 0


@pytest.mark.parametrize("architecture", ["mxd", "transcoder", "topk_autoencoder"])
def test_auxk_moves_the_gates_of_dead_units_alone(architecture: str) -> None:
    layer = sparse(train(planted_dead(architecture), 5))
    x, y = batches(1)[0]
    dead_units_loss(layer, y if layer.reads == "output" else x, y, torch.arange(12) >= 4).backward()
    gradient = layer.gate_linear.weight.grad
    assert gradient is not None
    assert not gradient[:4].any()
    assert (gradient[4:] != 0).any(1).sum() >= 5


def test_auxk_revives_planted_dead_units() -> None:
    def dead_after(coefficient: float) -> int:
        student = planted_dead("mxd", auxk_coefficient=coefficient, steps=150)
        train(student, 150)
        fired = torch.zeros(12, dtype=torch.bool)
        for x, _ in batches(10, seed=3):
            codes: Codes = sparse(student).encode(x)
            fired[codes.indices[codes.values > 0]] = True
        return int((~fired).sum())

    assert dead_after(0.0) >= 7
    assert dead_after(10.0) <= 5
