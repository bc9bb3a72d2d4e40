"""What each rank does with its part of a layer; the oracle is the whole layer in one process."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.training.distributed._examples import (
    batch,
    example,
    generator,
    gradients,
    loss_of,
    near,
    splits_of,
)
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.layers import SparseLayer
from mxd.training.distributed import (
    ExpertParallel,
    Groups,
    Layout,
    Split,
    World,
    check_equal,
    counted_traffic,
    gather_layer,
    gather_rows,
    gather_units,
    gradient_norm,
    replicated_parameters,
    shard_layer,
    split_units,
    sum_gradients,
    total,
    unit_parameters,
)

Case = tuple[str, int, int, dict[str, Any]]
"""Kind of layer, units, K, and options of its configuration; `drawn` is a K to use instead."""


def experts_agree(here: World, cases: dict[str, Case]) -> None:
    """Output, codes and every gradient of a layer on several ranks are those of one process."""
    for name, (kind, units, k, options) in cases.items():
        drawn = options.pop("drawn", None)
        for counts in splits_of(here.size):
            whole = example(kind, units=units, k=k, **options)
            _compare(here, whole, counts, drawn, f"{name}, tokens {counts}")


def _compare(
    here: World, whole: SparseLayer, counts: tuple[int, ...], k: int | None, case: str
) -> None:
    tokens = Split(counts, here.rank)
    x, y = batch(whole, tokens.total)
    expected = whole(x, k).detach()
    wanted = gradients(whole, lambda: loss_of(whole(x, k), y, tokens.total))
    codes = whole.encode(x, k).dense().detach()

    parallel = _parallel(here, whole)
    part, own = parallel.layer, parallel.units.own
    got = parallel(x, tokens, k)
    near(got, expected[tokens.own], f"output of {case}")
    near(parallel.encode(x, tokens, k).dense().detach(), codes[:, own], f"codes of {case}")
    mine = gradients(part, lambda: loss_of(parallel(x, tokens, k), y[tokens.own], tokens.total))
    for name in unit_parameters(part):
        near(mine[name], wanted[name][own], f"{name} of {case}")
    for name in replicated_parameters(part):
        near(total(mine[name], dist.group.WORLD), wanted[name], f"{name} of {case}")


def _parallel(here: World, whole: SparseLayer) -> ExpertParallel:
    units = split_units(whole.config.n_units, here.size, here.rank)
    return ExpertParallel(shard_layer(whole, units), units, dist.group.WORLD)


def tied_units(here: World) -> None:
    """Units that tie, within a rank and across ranks: K are active for each token, no more."""
    counts = splits_of(here.size)[1]
    tokens = Split(counts, here.rank)
    for k in (1, 3, 5, 8):
        whole = example("transcoder", units=12, k=k)
        with torch.no_grad():
            # Three kinds of units, four of each, that lie on all ranks; no two kinds tie.
            whole.encoder.weight.copy_(
                torch.randint(-1, 2, (3, 5), generator=generator(2)).repeat(4, 1)
            )
            whole.encoder.bias.copy_(torch.tensor([0.125, 0.25, 0.5]).repeat(4))
            whole.decoder.copy_(torch.randn(3, 4, generator=generator(3)).repeat(4, 1))
        x = torch.randint(-2, 3, (tokens.total, 5), generator=generator(4)).double()
        expected = whole(x).detach()
        values = whole.encode(x).values.detach()
        parallel = _parallel(here, whole)
        near(parallel(x, tokens), expected[tokens.own], f"tied units, k={k}")
        own = parallel.encode(x, tokens).dense().detach()
        everything = gather_rows(own.T.contiguous(), parallel.units, parallel.group).T
        assert torch.equal(everything.topk(k).values, values)
        assert torch.equal((everything > 0).sum(1), (values > 0).sum(1))


def numbers_that_are_none(here: World) -> None:
    """NaN in the input is refused; in one rank's weights it reaches every token's owner."""
    tokens = Split.even(6, here.size, here.rank)
    whole = example("transcoder", units=9, k=3)
    x, _ = batch(whole, 6)
    parallel = _parallel(here, whole)
    with pytest.raises(UserError, match="got NaN in a layer's input"):
        parallel(x * torch.nan, tokens)
    if here.rank == here.size - 1:
        with torch.no_grad():
            parallel.layer.encoder.weight[-1] = torch.nan
    assert parallel(x, tokens).isnan().all()


def exchanges_stay_narrow(here: World) -> None:
    """Bytes of a step do not depend on N, are O(tokens · (K + d)), and the counter misses none."""
    tokens = Split.even(16, here.size, here.rank)
    k, d_out = 3, 4
    found = []
    for units in (16, 4000):
        whole = example("mxd", units=units, k=k)
        x, y = batch(whole, 16)
        parallel = _parallel(here, whole)
        with counted_traffic() as counted, _Largest() as seen:
            loss_of(parallel(x, tokens), y[tokens.own], 16).backward()
        found.append((dict(counted), seen.elements))
        assert sum(counted.values()) == seen.received
    assert found[0] == found[1]
    counted, widest = found[0]
    others = 16 - tokens.own_count
    mine = (here.size - 1) * tokens.own_count
    assert counted["swap"] == 8 * mine * k + 4 * others + 8 * mine * d_out
    assert counted["gather"] == 8 * others * d_out
    assert widest == 16 * max(k, d_out)


class _Largest:
    """The widest tensor, and the bytes from others, of every call of torch's collectives."""

    NAMES = (
        "all_to_all_single",
        "all_gather_single",
        "all_gather_into_tensor",
        "all_reduce",
        "all_gather",
        "broadcast",
    )

    def __enter__(self) -> "_Largest":
        self.elements = self.received = 0
        self._before = {name: getattr(dist, name) for name in self.NAMES if hasattr(dist, name)}
        for name, function in self._before.items():
            setattr(dist, name, self._seen(name, function))
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self._before.items():
            setattr(dist, name, function)

    def _seen(self, name: str, function: Any) -> Any:
        def call(into: Tensor, *rest: Any, **options: Any) -> Any:
            sent = [t for t in rest if isinstance(t, Tensor)]
            self.elements = max(self.elements, *(t.numel() for t in [into, *sent]))
            size, rank = dist.get_world_size(), dist.get_rank()
            own = into.numel() // size
            if name == "all_to_all_single":
                sizes = rest[1]
                own = into.numel() * sizes[rank] // max(1, sum(sizes))
            self.received += (into.numel() - own) * into.element_size()
            return function(into, *rest, **options)

        return call


def steps_agree(here: World, layouts: list[str]) -> None:
    """Steps of AdamW with clipping and unit norm give one process's weights, on any mesh."""
    for layout in layouts:
        _steps_agree(here, layout)


def _steps_agree(here: World, layout: str) -> None:
    groups = Groups.of(Layout.parse(layout, here.size))
    options = {"unit_norm": True}
    alone = example("mxd", units=10, k=3, **options)
    whole = example("mxd", units=10, k=3, **options)
    reference = torch.optim.AdamW(alone.parameters(), lr=1e-2)
    ranks, place = groups.layout.experts, groups.place
    units = split_units(10, ranks, place[2])
    part = shard_layer(whole, units)
    parallel = ExpertParallel(part, units, groups.experts)
    optimizer = torch.optim.AdamW(part.parameters(), lr=1e-2)
    sharded, replicated = unit_parameters(part), replicated_parameters(part)
    for step in range(3):
        x, y = batch(alone, 11, seed=step)
        y[3] = 0  # a token that no loss knows
        _reference_step(alone, reference, x, y)
        data = Split.even(11, groups.layout.data, place[0])  # 11 divides by nothing
        mine, target = x[data.own], y[data.own]
        tokens = Split.even(len(mine), ranks, place[2])
        part.zero_grad()
        _known_loss(parallel(mine, tokens), target[tokens.own], known=10).backward()
        sum_gradients(sharded.values(), groups.data)
        sum_gradients(replicated.values(), groups.replicas)
        part.remove_parallel_gradient()
        norm = gradient_norm(replicated.values(), sharded.values(), groups.experts)
        for parameter in part.parameters():
            parameter.grad.div_((norm / 0.5).clamp(min=1))  # type: ignore[union-attr]
        optimizer.step()
        part.normalise_units()
    check_equal(replicated, groups.everyone)
    check_equal(sharded, groups.data)
    for name, parameter in alone.named_parameters():
        got = part.get_parameter(name)
        near(got, parameter[units.own] if name in sharded else parameter, f"{name}, {layout}")


def _known_loss(prediction: Tensor, y: Tensor, known: int) -> Tensor:
    squared = y.square().sum(-1)
    ratios = (prediction - y).square().sum(-1) / torch.where(squared > 0, squared, 1.0)
    return torch.where(squared > 0, ratios, 0.0).sum() / known


def _reference_step(layer: SparseLayer, optimizer: Any, x: Tensor, y: Tensor) -> None:
    layer.zero_grad()
    _known_loss(layer(x), y, known=10).backward()
    layer.remove_parallel_gradient()
    nn.utils.clip_grad_norm_(layer.parameters(), 0.5)
    optimizer.step()
    layer.normalise_units()


def layers_come_together(here: World, kinds: list[str]) -> None:
    """A layer that was cut and gathered is the one it was, and starts like a single process's."""
    for kind in kinds:
        _come_together(here, kind)


def _come_together(here: World, kind: str) -> None:
    whole, again = (example(kind, units=11, k=3) for _ in range(2))
    whole.statistics["mean_output"] = torch.arange(4.0)
    names = set(unit_parameters(whole))
    units = split_units(11, here.size, here.rank)
    part = shard_layer(whole, units)
    assert part.config.n_units == 11
    assert len(part.unit_rows) == part.gate_linear.out_features == units.own_count
    for name, parameter in part.named_parameters():
        expected = again.get_parameter(name)
        assert torch.equal(parameter, expected[units.own] if name in names else expected)
        owned = parameter.untyped_storage().nbytes()
        assert owned == parameter.numel() * parameter.element_size()  # the whole is let go of
    with pytest.raises(UserError, match=f"got a layer with {units.own_count} rows"):
        shard_layer(part, units)

    gathered = gather_layer(part, units, dist.group.WORLD)
    assert (gathered is None) == (here.rank > 0)
    if gathered is not None:
        assert gathered.config == again.config
        assert torch.equal(gathered.statistics["mean_output"], torch.arange(4.0))
        for name, parameter in gathered.named_parameters():
            assert torch.equal(parameter, again.get_parameter(name)), name
    moments = torch.arange(11.0)
    for piece_bytes in (1, 8, 1 << 20):
        found = gather_units(moments[units.own], units, dist.group.WORLD, piece_bytes=piece_bytes)
        assert found is None if here.rank else torch.equal(found, moments)
