"""A step in parts is the same step, and a step that does not fit goes on in parts."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tests.training._parts import batches, make_student, same_weights
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mxd.errors import UserError
from mxd.training import OptimizerRecipe, Student
from mxd.training.precision import autocast

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
    finish = student.layer.finish

    def small_only(combined: Tensor, x: Tensor) -> Tensor:
        asked.append(len(x))
        if len(x) > most:
            raise error
        y: Tensor = finish(combined, x)
        return y

    student.layer.finish = small_only
    return asked


OTHER_ERRORS = [
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", [GPU_ERROR, CPU_ERROR, *OTHER_ERRORS])
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
    finish, calls = student.layer.finish, []

    def second_fails(combined: Tensor, x: Tensor) -> Tensor:
        calls.append(len(x))
        if len(calls) == 2:
            raise GPU_ERROR
        y: Tensor = finish(combined, x)
        return y

    student.layer.finish = second_fails
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


@pytest.mark.parametrize("architecture", ["mxd", "transcoder", "topk_autoencoder"])
def test_parts_make_no_more_gradients_as_wide_as_n_than_a_whole_step(architecture: str) -> None:
    class Wide(TorchDispatchMode):
        """Counts new tensors as wide as N."""

        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            found = func(*args, **(kwargs or {}))
            for one in found if isinstance(found, tuple | list) else (found,):
                if isinstance(one, Tensor) and one.ndim == 2 and 977 in one.shape:
                    self.count += one.layout == torch.strided and not one._is_view()
            return found

    def wide_tensors(micro_tokens: int | None) -> int:
        student = make_student(architecture, width=977, micro_tokens=micro_tokens)
        (x, y), *_ = batches(1)
        fed = y if student.layer.reads == "output" else x
        with Wide() as seen:
            student._micro.run(32, lambda parts: student._gradients(fed, y, None, parts))
        return seen.count

    assert wide_tensors(8) == wide_tensors(None) >= 2


@pytest.mark.parametrize("architecture", ALL)
def test_parts_under_autocast_stay_near_the_whole_step(architecture: str) -> None:
    def gradients(**recipe: Any) -> list[Tensor]:
        student = make_student(architecture, **recipe)
        if recipe:
            fail = [GPU_ERROR]  # a failed attempt must not leave autocast's cache behind

            def first_fails(*args: Any) -> Any:
                if fail:
                    raise fail.pop()
                return type(student.layer).finish(student.layer, *args)

            if architecture != "dense_mlp":
                student.layer.finish = first_fails
        (x, y), *_ = batches(1)
        fed = y if student.layer.reads == "output" else x
        with autocast("bf16", torch.device("cpu")):
            student._micro.run(32, lambda parts: student._gradients(fed, y, None, parts))
        return [p.grad for p in student.layer.parameters() if p.grad is not None]

    for mine, oracle in zip(gradients(micro_tokens=12), gradients(), strict=True):
        assert (mine - oracle).norm() <= 0.02 * oracle.norm() + 1e-6
