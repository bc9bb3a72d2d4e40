"""What is minimised, and the learning rate's course, against values worked out by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mxd.errors import UserError
from mxd.training import (
    LOSSES,
    OptimizerRecipe,
    Schedule,
    loss_function,
    normalized_mse,
    reference,
)

# ‖y‖² = 25 and 4; errors (1, 0) and (0, 2), so squared errors 1 and 4.
TARGET = torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.float64)
PREDICTION = torch.tensor([[4.0, 4.0], [0.0, 4.0]], dtype=torch.float64)


def test_normalized_mse_is_error_over_squared_norm() -> None:
    assert normalized_mse(PREDICTION, TARGET).item() == pytest.approx((1 / 25 + 4 / 4) / 2)


def test_reference_is_squared_error_over_norm_per_dimension() -> None:
    assert reference(PREDICTION, TARGET).item() == pytest.approx((1 / 5 + 4 / 2) / 2 / 2)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_drops_tokens_without_output(name: str) -> None:
    zeros = torch.zeros(3, 2, dtype=torch.float64)
    target, prediction = torch.cat([zeros, TARGET]), torch.cat([zeros + 9, PREDICTION])
    prediction.requires_grad_()
    loss = LOSSES[name](prediction, target)
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert loss.item() == pytest.approx(LOSSES[name](PREDICTION, TARGET).item())
    assert gradient.isfinite().all()
    assert not gradient[:3].any()


@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_no_known_token_is_zero_with_zero_gradient(name: str) -> None:
    prediction = torch.ones(2, 3, requires_grad=True)
    loss = LOSSES[name](prediction, torch.zeros(2, 3))
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_loss_gradient_agrees_with_finite_differences(name: str) -> None:
    prediction = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: LOSSES[name](p, target), (prediction,))


def test_losses_under_scaling_only_the_normalised_one_stays() -> None:
    scaled = normalized_mse(10 * PREDICTION, 10 * TARGET)
    assert scaled.item() == pytest.approx(normalized_mse(PREDICTION, TARGET).item())
    assert reference(10 * PREDICTION, 10 * TARGET).item() == pytest.approx(
        10 * reference(PREDICTION, TARGET).item()
    )


def test_loss_function_of_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"'mse'.*normalized_mse, reference"):
        loss_function("mse")


@pytest.mark.parametrize(
    ("steps", "share", "warmup"), [(1000, 0.04, 40), (1_000_000, 0.04, 5000), (3000, 1.0, 3000)]
)
def test_schedule_warms_up_for_the_smaller_of_steps_and_share(
    steps: int, share: float, warmup: int
) -> None:
    recipe = OptimizerRecipe(batch_tokens=10, warmup_share=share)
    assert Schedule.of(recipe, 10 * steps) == Schedule(steps, warmup, 0)


def test_schedule_counts_the_last_smaller_step() -> None:
    assert Schedule.of(OptimizerRecipe(batch_tokens=10), 101).steps == 11


def test_schedule_rises_stays_and_falls() -> None:
    schedule = Schedule(steps=20, warmup=4, decay=5)
    factors = [schedule.factor(step) for step in range(20)]
    assert factors[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert factors[4:15] == [1.0] * 11
    assert factors[15:] == pytest.approx([5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_schedule_without_decay_stays_constant_to_the_end() -> None:
    schedule = Schedule(steps=20, warmup=4, decay=0)
    assert {schedule.factor(step) for step in range(4, 40)} == {1.0}


@given(
    steps=st.integers(1, 10_000),
    warmup_share=st.floats(0, 1),
    decay_share=st.floats(0, 1),
    position=st.floats(0, 2),
)
def test_schedule_factor_is_above_zero_and_at_most_one(
    steps: int, warmup_share: float, decay_share: float, position: float
) -> None:
    recipe = OptimizerRecipe(batch_tokens=1, warmup_share=warmup_share, decay_share=decay_share)
    assert 0 < Schedule.of(recipe, steps).factor(round(position * steps)) <= 1
