"""Time per token of `generate`: a model as it is, and with layers grafted in."""

from collections.abc import Callable
from contextlib import ExitStack

import torch
import transformers

import mxd
from engine_costs.floors import inference_weight_bytes
from engine_costs.shapes import Shape, gpt2_shape, new_layer
from mxd.demo import bundled_model
from mxd.kernels import combine, gate
from mxd.layers import SparseLayer
from mxd.planning.timing import Timing, interleaved

ARCHITECTURES = ("mxd", "transcoder")
PROMPT = 8


def gpt2_like(*, small: bool = False) -> torch.nn.Module:
    """GPT-2 124M's shape with random weights; `small` has two narrow layers."""
    tiny = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 128}
    shape = {**tiny, "bos_token_id": 0, "eos_token_id": 0} if small else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).eval()


def measure_inference(
    *,
    batches: tuple[int, ...] = (1, 64),
    new_tokens: int = 16,
    rounds: int = 3,
    small: bool = False,
    bandwidth: float | None = None,
) -> list[dict[str, object]]:
    """One entry for each model and batch: seconds per token and ratios to the base model.

    Weights are random where a model is made from its shape alone: what a token costs does not
    depend on them. Layers are untrained.

    Args:
        batches: sequences generated together.
        new_tokens: tokens that each continues by, greedily and without a stop.
        rounds: repeats, base and grafted models in turn.
        small: a tiny model instead of GPT-2's shape.
        bandwidth: bytes a second that memory gives, for the floor; None leaves it out.
    """
    found = []
    for name, model, layer, shape in _models(small):
        grafts = _grafts(
            shape, {"one_layer": [layer], "all_layers": [*range(model.config.n_layer)]}
        )
        for batch in batches:
            print(f"generating with {name}, batch {batch}", flush=True)
            times = _times(model, grafts, batch, new_tokens, rounds)
            base = times["base"]["median"]
            found.append(
                {
                    "model": name,
                    "batch": batch,
                    "new_tokens": new_tokens,
                    "seconds_per_step": times,
                    "ratio_to_base": {
                        key: t["median"] / base for key, t in times.items() if key != "base"
                    },
                    "layer": _layer_costs(shape, batch, rounds, bandwidth),
                }
            )
    return found


def _models(small: bool) -> list[tuple[str, torch.nn.Module, int, dict[str, Shape]]]:
    if small:
        shape = {a: Shape(32, 32, 128, 256, 4, 1) for a in ARCHITECTURES}
        return [("tiny", gpt2_like(small=True), 1, shape)]
    bundled = mxd.load_model(bundled_model("gpt2"))
    site = mxd.find_mlps(bundled)[3]
    widths = {"mxd": 5376, "transcoder": 6144}
    narrow = {a: Shape(site.d_in, site.d_out, site.d_hidden, widths[a], 8, 1) for a in widths}
    wide = {a: gpt2_shape(a, tokens=1) for a in ARCHITECTURES}
    return [("gpt2-124m shape", gpt2_like(), 8, wide), ("small-gpt2", bundled, 3, narrow)]


def _grafts(
    shapes: dict[str, Shape], places: dict[str, list[int]]
) -> dict[str, dict[int, torch.nn.Module]]:
    """What stands at which block: nothing, or untrained layers at one or all of them."""
    grafts: dict[str, dict[int, torch.nn.Module]] = {"base": {}}
    for architecture, shape in shapes.items():
        layers = {i: new_layer(architecture, shape, i).eval() for i in places["all_layers"]}
        for where, indices in places.items():
            grafts[f"{architecture}, {where}"] = {i: layers[i] for i in indices}
    return grafts


@torch.inference_mode()
def _times(
    model: torch.nn.Module,
    grafts: dict[str, dict[int, torch.nn.Module]],
    batch: int,
    new_tokens: int,
    rounds: int,
) -> dict[str, Timing]:
    """Seconds per generated position (each yields `batch` tokens), the prompt's pass taken off."""
    works: dict[str, Callable[[], object]] = {}
    for name, layers in grafts.items():
        works[f"{name}|long"] = _generation(model, layers, batch, 1 + new_tokens)
        works[f"{name}|short"] = _generation(model, layers, batch, 1)
    times = interleaved(works, rounds)
    found: dict[str, Timing] = {}
    for name in grafts:
        short = times[f"{name}|short"]["median"]
        long = times[f"{name}|long"]
        found[name] = {
            "median": (long["median"] - short) / new_tokens,
            "lowest": (long["lowest"] - short) / new_tokens,
            "highest": (long["highest"] - short) / new_tokens,
            "rounds": rounds,
        }
    return found


def _generation(
    model: torch.nn.Module, layers: dict[int, torch.nn.Module], batch: int, new_tokens: int
) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    prompt = torch.randint(vocabulary, (batch, PROMPT), generator=generator)

    def generate() -> None:
        with ExitStack() as stack:
            if layers:
                stack.enter_context(mxd.graft(model, layers, check=False))
            model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                pad_token_id=0,
            )

    return generate


@torch.inference_mode()
def _layer_costs(
    shapes: dict[str, Shape], batch: int, rounds: int, bandwidth: float | None
) -> dict[str, dict[str, object]]:
    """Seconds of one layer's parts for one position of `batch` sequences, and bytes it reads."""
    found = {}
    for architecture, shape in shapes.items():
        layer = new_layer(architecture, shape).eval()
        x = torch.randn(batch, 1, shape.d_in, generator=torch.Generator().manual_seed(0))
        read = inference_weight_bytes(architecture, shape)
        found[architecture] = {
            "seconds": interleaved(_layer_works(architecture, layer, x), 10 * rounds),
            "weight_bytes_for_one_token": read,
            "dense_mlp_weight_bytes": inference_weight_bytes(None, shape),
            "floor_seconds": None if bandwidth is None else read / bandwidth,
        }
    return found


def _layer_works(
    architecture: str, layer: SparseLayer, x: torch.Tensor
) -> dict[str, Callable[[], object]]:
    linear, k = layer.gate_linear, layer.config.k
    values, indices = gate(x, linear.weight, linear.bias, k)
    works: dict[str, Callable[[], object]] = {
        "layer": lambda: layer(x),
        "gate": lambda: gate(x, linear.weight, linear.bias, k),
        "combine": lambda: combine(values, indices, layer.unit_rows),
    }
    if architecture == "mxd":
        works["dense_branch"] = lambda: layer.dense_branch(x)
    return works
