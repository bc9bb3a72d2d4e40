"""Measured times of a step's parts, called one by one, and of the whole step."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from engine_costs.shapes import Shape, batch, new_layer
from mxd.kernels import combine, gate
from mxd.layers import SparseLayer
from mxd.planning.timing import Timing, interleaved
from mxd.training import OptimizerRecipe, Schedule, Student, loss_function
from mxd.training.kept_memory import kept_memory
from mxd.training.precision import autocast

Work = Callable[[], object]


def measure_step(
    architecture: str, shape: Shape, *, precision: str = "float32", rounds: int = 5
) -> dict[str, Timing]:
    """Seconds of each group of parts (as `floors.step_parts` names them) and of the `step`.

    Backward parts run alone, on a graph kept from one forward pass. The whole step runs last, on
    its own data, so that its optimizer state does not crowd the cache of the parts.
    """
    layer = new_layer(architecture, shape)
    x, y = batch(shape)

    def context() -> AbstractContextManager[object]:
        return autocast(precision, torch.device("cpu"))

    works = {**_gate(layer, x, context), **_rows_and_loss(layer, x, y, context)}
    works |= _dense(architecture, layer, x, context)
    works["optimizer"] = _optimizer(layer)
    with kept_memory():  # as in `mxd.fit`
        times = interleaved(works, rounds)
        del works
        layer.zero_grad(set_to_none=True)
        student = new_student(layer, shape)
        step = {"step": lambda: student.step(x, y, context())}
        return times | interleaved(step, rounds, warm_up=2)


def new_student(layer: SparseLayer, shape: Shape) -> Student:
    """The library's own trainer of a layer, with the paper's loss and no clipping."""
    recipe = OptimizerRecipe(batch_tokens=shape.tokens)
    schedule = Schedule.of(recipe, 1000 * shape.tokens)
    return Student("bench", "site", layer, lr=1e-4, seed=0, recipe=recipe, schedule=schedule)


def _gate(
    layer: SparseLayer, x: Tensor, context: Callable[[], AbstractContextManager[object]]
) -> dict[str, Work]:
    linear, k = layer.gate_linear, layer.config.k

    def forward() -> Tensor:
        with context():
            return gate(x, linear.weight, linear.bias, k)[0]

    values = forward()
    return {"gate_forward": forward, "gate_backward": _backward(values, [*linear.parameters()])}


def _rows_and_loss(
    layer: SparseLayer, x: Tensor, y: Tensor, context: Callable[[], AbstractContextManager[object]]
) -> dict[str, Work]:
    table, linear = layer.unit_rows, layer.gate_linear
    with torch.no_grad():
        values, indices = gate(x, linear.weight, linear.bias, layer.config.k)
    values.requires_grad_()

    def forward() -> Tensor:
        with context():
            return combine(values, indices, table)

    rows = forward()
    loss_of, modulated = loss_function("normalized_mse"), hasattr(layer, "dense_branch")
    summed, dense = rows.detach().requires_grad_(), torch.randn_like(rows).requires_grad_()

    def loss() -> None:
        output = summed * dense if modulated else summed
        loss_of((output + layer.bias).float(), y).backward()
        summed.grad = dense.grad = layer.bias.grad = None

    backward = _backward(rows, [values, table])
    return {"combine_forward": forward, "combine_backward": backward, "loss": loss}


def _dense(
    architecture: str,
    layer: SparseLayer,
    x: Tensor,
    context: Callable[[], AbstractContextManager[object]],
) -> dict[str, Work]:
    if architecture == "transcoder":
        return {}

    def forward() -> Tensor:
        with context():
            return layer.dense_branch(x) if architecture == "mxd" else x @ layer.skip.T

    if architecture == "mxd":
        weights = [*layer.encoder.parameters(), layer.decoder]
    else:
        weights = [layer.skip]
    return {"dense_forward": forward, "dense_backward": _backward(forward(), weights)}


def _optimizer(layer: SparseLayer) -> Work:
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return torch.optim.AdamW(layer.parameters(), lr=1e-4, weight_decay=0.0, fused=True).step


def _backward(output: Tensor, inputs: list[Tensor]) -> Work:
    gradient = torch.randn_like(output)
    return lambda: torch.autograd.grad(output, inputs, gradient, retain_graph=True)
