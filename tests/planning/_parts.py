"""Small plans that the tests share."""

from dataclasses import replace

from mxd.planning import (
    Device,
    ModelShape,
    SiteShape,
    StudentShape,
    Training,
    plan_students,
)
from mxd.planning.work import Ceilings
from mxd.training import LayerRecipe

CEILINGS = Ceilings("m", "measured", {"float32": 1e12, "bf16": 4e12}, 1e11, 5e10, 5e10, 1e11)


def device(
    gigabytes: float | None, *, link: float | None = 1e11, host: float | None = None
) -> Device:
    """An accelerator of some size, a tenth as fast between nodes as within."""
    memory = None if gigabytes is None else int(gigabytes * 1e9)
    network = None if link is None else link / 10
    shared = None if host is None else int(host * 1e9)
    return Device("h100", CEILINGS, memory, 1.0, "measured", link, network, 6e10, shared)


def sites(count: int = 1, *, d: int = 8, hidden: int = 16) -> tuple[SiteShape, ...]:
    """MLPs of one shape."""
    return tuple(SiteShape(f"b.{i}.mlp", i, d, d, hidden, "gelu", False) for i in range(count))


def model(of: tuple[SiteShape, ...], *, parameters: int = 10_000) -> ModelShape:
    """A language model with these sites."""
    return ModelShape(
        name="m",
        parameters=parameters,
        parameters_run=parameters,
        blocks=len(of),
        blocks_run=len(of),
        width=of[0].d_in,
        element=2,
        weight_bytes=2 * parameters,
        weight_bytes_run=2 * parameters,
        file_bytes=2 * parameters,
        quantised=None,
        sites=of,
        flops_per_token=2 * parameters,
        pass_bytes=4_000,
        pass_tokens=64,
        counted=True,
    )


def students(
    of: tuple[SiteShape, ...], *, architecture: str = "mxd", width: int = 32, tokens: int = 64
) -> tuple[StudentShape, ...]:
    """One layer at each site."""
    return plan_students(
        of,
        architectures=(architecture,),
        ks=(4,),
        recipe=LayerRecipe(width=width),
        batch_tokens=tokens,
    )


def training(
    count: int = 1,
    *,
    parameters: int = 10_000,
    width: int = 32,
    d: int = 8,
    hidden: int = 16,
    tokens: int = 64,
    **changes: object,
) -> Training:
    """A training of one MxD at each of some sites."""
    of = sites(count, d=d, hidden=hidden)
    plain = Training(
        model=model(of, parameters=parameters),
        students=students(of, width=width, tokens=tokens),
        tokens=640,
        batch_tokens=tokens,
        buffer_tokens=128,
        precision="float32",
    )
    return replace(plain, **changes)
