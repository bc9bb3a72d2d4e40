"""A step in parts is the same step, and a step that does not fit goes on in parts."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tests.training._parts import batches, make_student, same_weights
from torch import Tensor

from mxd.errors import UserError
from mxd.training import OptimizerRecipe, Student

ALL = ["mxd", "transcoder", "skip_transcoder", "topk_autoencoder", "dense_mlp", "mlp_transcoder"]
GPU_ERROR = torch.OutOfMemoryError("CUDA out of memory")
CPU_ERROR = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")


def uneven_batches(count: int) -> list[tuple[Tensor, Tensor]]:
    """Batches in which some tokens have y = 0, more of them at the start: they count nowhere."""
    made = batches(count)
    for _, y in made:
        y[:5] = 0
        y[20] = 0
    return made


def train(student: Student, steps: int = 4) -> Student:
    student.layer.double()
    for x, y in uneven_batches(steps):
        fed = y if student.layer.reads == "output" else x
        student.step(fed.double(), y.double(), nullcontext())
    return student


def assert_same_training(got: Student, expected: Student, tolerance: float = 1e-5) -> None:
    for mine, oracle in zip(got.layer.parameters(), expected.layer.parameters(), strict=True):
        torch.testing.assert_close(mine, oracle, rtol=0, atol=tolerance)
    assert torch.equal(got._counters.silent_tokens, expected._counters.silent_tokens)
    for mine, oracle in zip(got.take_window(), expected.take_window(), strict=True):
        assert mine == (None if oracle is None else pytest.approx(oracle, rel=1e-4))
    assert (got.steps, got.tokens) == (expected.steps, expected.tokens)


@pytest.mark.parametrize("loss", ["normalized_mse", "reference"])
@pytest.mark.parametrize("size", [1, 7, 31])
@pytest.mark.parametrize("architecture", ALL)
def test_step_in_parts_is_the_whole_step(architecture: str, size: int, loss: str) -> None:
    whole = train(make_student(architecture, loss=loss))
    parts = train(make_student(architecture, loss=loss, micro_tokens=size))
    assert not same_weights(whole.layer, make_student(architecture, loss=loss).layer.double())
    assert_same_training(parts, whole)


def test_step_in_parts_keeps_the_l1_penalty_and_the_clipped_norm() -> None:
    recipe = {"l1_coefficient": 0.5, "clip_norm": 0.2, "options": {"sparsity": "l1"}}
    whole = train(make_student("transcoder", **recipe))
    assert_same_training(train(make_student("transcoder", micro_tokens=9, **recipe)), whole)


def test_step_in_parts_draws_k_once() -> None:
    recipe: dict[str, Any] = {"k": 6, "width": 40, "options": {"random_k": True}}
    whole = train(make_student("mxd", **recipe), 8)
    assert_same_training(train(make_student("mxd", micro_tokens=5, **recipe), 8), whole)


def fits(student: Student, most: int, error: RuntimeError) -> list[int]:
    """Let a student's layer run out of memory above so many tokens; the sizes it was asked for."""
    asked: list[int] = []
    encode = student.layer.encode

    def small_only(x: Tensor, k: int | None = None) -> Any:
        asked.append(len(x))
        if len(x) > most:
            raise error
        return encode(x, k)

    student.layer.encode = small_only
    return asked


@pytest.mark.parametrize("error", [GPU_ERROR, CPU_ERROR], ids=["accelerator", "cpu"])
def test_student_out_of_memory_goes_on_in_parts(
    error: RuntimeError, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(make_student("mxd"))
    student = make_student("mxd")
    asked = fits(student, 10, error)
    assert_same_training(train(student), whole)
    assert asked == [32, 16, 8, 8, 8, 8] + 3 * [8, 8, 8, 8]  # it does not try the large one again
    assert "mxd: out of memory with 32 tokens at one time; going on with 16" in caplog.text
    assert caplog.text.count("out of memory") == 2


def test_failure_in_a_later_part_leaves_no_gradient_behind() -> None:
    whole = train(make_student("mxd"))
    student = make_student("mxd", micro_tokens=16)
    encode, calls = student.layer.encode, []

    def second_fails(x: Tensor, k: int | None = None) -> Any:
        calls.append(len(x))
        if len(calls) == 2:
            raise GPU_ERROR
        return encode(x, k)

    student.layer.encode = second_fails
    assert_same_training(train(student), whole)
    assert calls[:6] == [16, 16, 8, 8, 8, 8]


def test_no_memory_for_one_token_ends_the_training() -> None:
    student = make_student("mxd")
    asked = fits(student, 0, GPU_ERROR)
    with pytest.raises(torch.OutOfMemoryError):
        train(student)
    assert asked == [32, 16, 8, 4, 2, 1]


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    student = make_student("mxd")
    asked = fits(student, 0, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        train(student)
    assert asked == [32]


def test_loss_of_dead_units_is_never_split() -> None:
    student = make_student("mxd", auxk_coefficient=0.1)
    asked = fits(student, 10, GPU_ERROR)
    with pytest.raises(torch.OutOfMemoryError):
        train(student)
    assert asked == [32]
    with pytest.raises(UserError, match="ratio of sums over the whole batch"):
        OptimizerRecipe(micro_tokens=8, auxk_coefficient=0.1)
