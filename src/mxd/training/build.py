"""From a recipe and the sites of a model to freshly initialised students."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mxd.errors import UserError
from mxd.host import MLPSite, site_fingerprint
from mxd.layers import Layer, Provenance, SparseLayer
from mxd.layers import build as build_layer
from mxd.training.recipe import Recipe, StudentSpec
from mxd.training.schedule import Schedule
from mxd.training.starts import start_layer
from mxd.training.student import Student
from mxd.training.team import Team


@dataclass(frozen=True)
class Roster:
    """The students of a run."""

    names: list[tuple[str, str]]
    """Site and name of every one."""
    rates: list[float]
    """Their learning rates."""
    seeds: list[int]
    """Their seeds."""
    own: list[Student]
    """Those that this process trains."""


def build_students(
    recipe: Recipe,
    sites: Sequence[MLPSite],
    means: Mapping[str, Tensor],
    origin: Provenance,
    team: Team | None = None,
) -> list[Student]:
    """The students of this process (`build_roster`)."""
    return build_roster(recipe, sites, means, origin, team or Team()).own


def build_roster(
    recipe: Recipe,
    sites: Sequence[MLPSite],
    means: Mapping[str, Tensor],
    origin: Provenance,
    team: Team,
) -> Roster:
    """One student for each site and spec of the recipe, its output bias at the mean output.

    A layer that this process has any part in is built whole on the host, one after the other: it
    starts at the numbers that its seed gives, wherever it is trained.

    Args:
        recipe: the recipe.
        sites: where to train.
        means: mean of y over training tokens for each site's name, (d_out,).
        origin: the base model, and the tokens left out of training.
        team: the processes of the run.

    Raises:
        UserError: K larger than N, or a site whose activation or hidden width is unknown.
    """
    roster, schedule = Roster([], [], [], []), Schedule.of(recipe.optimizer, recipe.tokens)
    for site in sites:
        origin = replace(origin, site=site.name, base_fingerprint=site_fingerprint(site))
        for spec in recipe.students:
            name = student_name(spec, _on_meta(recipe, spec, site))
            if (site.name, name) in roster.names:  # a dense control has no K to vary
                continue
            lr = spec.lr or recipe.optimizer.learning_rate(spec.architecture)
            roster.names.append((site.name, name))
            roster.rates.append(lr)
            roster.seeds.append(spec.seed)
            if not team.trains(len(roster.names) - 1):
                continue
            layer = _new_layer(recipe, spec, site)
            layer.start_bias_at(means[site.name].to(layer.bias.device))
            layer.provenance = replace(origin, student=name, seed=spec.seed)
            companions = team.take_part(layer)
            student = Student(
                name,
                site.name,
                layer.to(recipe.device),
                lr=lr,
                seed=spec.seed,
                recipe=recipe.optimizer,
                schedule=schedule,
                variant=spec.variant,
                start=spec.options.on(recipe.layer).start,
                companions=companions,
            )
            roster.own.append(student)
    return roster


def check_layers(recipe: Recipe, sites: Sequence[MLPSite], team: Team) -> None:
    """Find, before any work is done, layers that cannot be built or cannot be shared.

    Raises:
        UserError: as of `build_roster`, or fewer units or students than there are to be parts.
    """
    names = set()
    for site in sites:
        for spec in recipe.students:
            layer = _on_meta(recipe, spec, site)
            team.check_layer(layer)
            names.add((site.name, student_name(spec, layer)))
    team.check_students(len(names))


def new_layer(recipe: Recipe, spec: StudentSpec, site: MLPSite) -> Layer:
    """A freshly initialised layer of a spec for a site; its seed alone decides its start."""
    return _new_layer(recipe, spec, site).to(recipe.device)


def _new_layer(recipe: Recipe, spec: StudentSpec, site: MLPSite) -> Layer:
    """The layer in host memory."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        layer = _built(recipe, spec, site)
        start_layer(layer, spec.options.on(recipe.layer).start, site)
    return layer


def _on_meta(recipe: Recipe, spec: StudentSpec, site: MLPSite) -> Layer:
    """The layer without its numbers, which takes no memory and draws nothing."""
    with torch.device("meta"):
        return _built(recipe, spec, site, unit_norm=False)  # what is off is said once


def _built(recipe: Recipe, spec: StudentSpec, site: MLPSite, **changed: Any) -> Layer:
    options = spec.options.on(recipe.layer)
    d_hidden = options.d_hidden or site.d_hidden
    activation = options.activation or site.activation
    dense = spec.architecture in ("mxd", "dense_mlp", "mlp_transcoder")
    if dense and (d_hidden is None or activation is None):
        missing = "width of the hidden units" if d_hidden is None else "activation"
        raise UserError(
            f"the {missing} of {site.name} could not be read from the model; give it "
            f"({'d_hidden' if d_hidden is None else 'activation'}, for example "
            f"{4 * site.d_in if d_hidden is None else 'gelu'})"
        )
    d_hidden = d_hidden or 4 * site.d_in
    return build_layer(
        spec.architecture,
        d_in=site.d_in,
        d_out=site.d_out,
        d_hidden=d_hidden,
        activation=activation or "gelu",
        glu=bool(site.glu),
        k=spec.k,
        width=options.width,
        expansion=options.expansion,
        rule=options.rule,
        options={**options.options(), **changed},
    )


def student_name(spec: StudentSpec, layer: Layer) -> str:
    """`<architecture>-k<k>-w<width>-s<seed>[-lr<rate>][-<variant>]`."""
    k = spec.k if isinstance(layer, SparseLayer) else 0
    name = f"{spec.architecture}-k{k}-w{layer.config.n_units}-s{spec.seed}"
    name = name if spec.lr is None else f"{name}-lr{spec.lr:g}"
    return name if spec.variant is None else f"{name}-{spec.variant}"
