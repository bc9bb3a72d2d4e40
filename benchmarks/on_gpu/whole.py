"""End to end: a frozen GPT-2 shape, the stream of its activations, and a layer trained on them."""

from collections.abc import Iterator
from contextlib import ExitStack
from time import perf_counter
from typing import Any

import torch
from engine_costs.inference import gpt2_like
from engine_costs.parts import new_student
from engine_costs.shapes import Shape, new_layer

import mxd
from mxd.data import ActivationStream, Contexts
from mxd.host import capture
from mxd.training.precision import autocast
from on_gpu.timing import interleaved, wait

LENGTH = 128
"""Tokens in a context."""
TARGET = 800_000
"""Tokens a second: 480 million in ten minutes."""


class _MadeUpContexts:
    """Random token ids; enough of them that none comes twice within a measurement."""

    def __init__(self, vocabulary: int, contexts: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._ids = torch.randint(vocabulary, (contexts, LENGTH), generator=generator)

    def __iter__(self) -> Iterator[Contexts]:
        for ids in self._ids.split(32):
            yield Contexts(ids, torch.zeros(ids.shape, dtype=torch.int32))


def base_model(device: torch.device, *, small: bool) -> torch.nn.Module:
    """GPT-2 124M's shape with random weights, in bf16 on a GPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return gpt2_like(small=small).to(device, dtype).requires_grad_(False)


def measure_training(
    architecture: str, shape: Shape, device: torch.device, *, steps: int, small: bool
) -> list[dict[str, Any]]:
    """Tokens a second, the model's passes made in turn or ahead; and those of the harvest alone."""
    model = base_model(device, small=small)
    site = mxd.find_mlps(model)[1 if small else 8]
    found = []
    for passes, prefetch, train in ((32, 0, True), (32, 2, True), (256, 2, True), (256, 0, False)):
        stream = _stream(model, site, shape, device, passes, prefetch, steps, small)
        started = perf_counter()
        stream.first_buffer()
        wait(device)
        filled = perf_counter() - started
        student = new_student(new_layer(architecture, shape).to(device), shape)
        seconds = _train(stream, student if train else None, site.name, device, steps)
        rate = steps * shape.tokens / seconds
        found.append(
            {
                "architecture": architecture,
                "contexts_in_a_pass": passes,
                "passes_ahead": prefetch,
                "what": "harvest and training" if train else "harvest alone",
                "seconds_to_fill_the_buffer": filled,
                "tokens_per_second": rate,
                "share_of_target": rate / TARGET,
                "minutes_for_480_million_tokens": 480e6 / rate / 60,
            }
        )
    return found


def _stream(
    model: torch.nn.Module,
    site: Any,
    shape: Shape,
    device: torch.device,
    passes: int,
    prefetch: int,
    steps: int,
    small: bool,
) -> ActivationStream:
    buffer = (64 if small else 4096) * LENGTH
    tokens = buffer + (steps + 20) * shape.tokens
    return ActivationStream(
        harvest=lambda ids: capture(model, [site], ids.to(device)),
        contexts=_MadeUpContexts(model.config.vocab_size, tokens // LENGTH + passes),
        batch_tokens=shape.tokens,
        buffer_tokens=buffer,
        harvest_contexts=passes,
        device=device,
        dtype=torch.bfloat16,
        prefetch=prefetch,
        harvest_device=device,
    )


def _train(
    stream: ActivationStream, student: Any, site: str, device: torch.device, steps: int
) -> float:
    """Seconds of so many steps, after a few to warm up."""
    warm_up = min(10, steps)
    started = 0.0
    for number, batch in enumerate(stream):
        if number == warm_up:
            wait(device)
            started = perf_counter()
        if number == warm_up + steps:
            break
        x, y = (part.float() for part in batch.sites[site])
        if student is not None:
            student.step(x, y, autocast("bf16", device))
    wait(device)
    seconds = perf_counter() - started
    stream.close()
    return seconds


@torch.inference_mode()
def measure_generation(
    shapes: dict[str, Shape],
    device: torch.device,
    *,
    new_tokens: int,
    rounds: int,
    small: bool,
) -> list[dict[str, Any]]:
    """Seconds for each generated position, base model and grafted ones in turn."""
    model = base_model(device, small=small)
    dtype = next(model.parameters()).dtype
    index = 1 if small else 8
    layers: dict[str, dict[int, torch.nn.Module]] = {"base": {}}
    for name, shape in shapes.items():
        layers[name] = {index: new_layer(name, shape).eval().to(device, dtype)}
    found = []
    for sequences in (1, 64):
        works = {}
        for name, grafted in layers.items():
            for length in (1, 1 + new_tokens):
                works[f"{name}|{length}"] = _generation(model, grafted, sequences, length, device)
        times = interleaved(works, rounds, device, warm_up=1)
        each = {
            name: (times[f"{name}|{1 + new_tokens}"]["median"] - times[f"{name}|1"]["median"])
            / new_tokens
            for name in layers
        }
        found.append(
            {
                "sequences": sequences,
                "new_tokens": new_tokens,
                "seconds_per_position": each,
                "ratio_to_base": {name: each[name] / each["base"] for name in shapes},
            }
        )
    return found


def _generation(
    model: Any, layers: dict[int, torch.nn.Module], sequences: int, length: int, device: Any
) -> Any:
    prompt = torch.randint(
        model.config.vocab_size, (sequences, 16), generator=torch.Generator().manual_seed(0)
    ).to(device)

    def generate() -> None:
        with ExitStack() as stack:
            if layers:
                stack.enter_context(mxd.graft(model, layers, check=False))
            model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                min_new_tokens=length,
                max_new_tokens=length,
                pad_token_id=0,
            )

    return generate
