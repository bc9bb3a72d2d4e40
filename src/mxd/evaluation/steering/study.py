"""The paper's steering study: what do samples with a unit turned up share, and are they fluent?"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from mxd.data import Contexts
from mxd.errors import UserError
from mxd.evaluation._layers import some_sparse_layers
from mxd.evaluation.firing import Firing, find_firings
from mxd.evaluation.judging import Judge
from mxd.evaluation.steering._panel import Panel
from mxd.evaluation.steering._writer import TextSet, Writer
from mxd.evaluation.steering.layers import random_rows
from mxd.evaluation.steering.results import (
    LayerSteering,
    SteeredExample,
    SteeringStudy,
    Swept,
    UnitScores,
    distinct,
)
from mxd.evaluation.steering.sampling import Sampling
from mxd.evaluation.steering.strength import Strength
from mxd.evaluation.steering.units import Choice, ChosenUnits, choose_units
from mxd.layers import Layer

_logger = logging.getLogger(__name__)
_EXAMPLE_UNITS, _EXAMPLE_SAMPLES = 3, 2


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How a steering study is made."""

    units: int = 100
    """Units of each layer; the paper takes 100."""
    choice: Choice = "live"
    """Which: the first that fire on held-out text, the first there are, or random live ones."""
    strengths: Sequence[Strength] = (Strength(100.0),)
    """What is added to a unit's coefficient, one after the other; the paper adds 100."""
    random_directions: bool = True
    """Also steer with random directions of each unit's norm, as a control."""
    tokens: int = 20_000
    """Held-out text to find each unit's largest coefficient on."""
    prompt: str = "Let's talk about "
    """Where every sample begins."""
    sampling: Sampling = field(default_factory=Sampling)
    """How samples are taken."""
    batch_rows: int = 256
    """Samples written at the same time."""

    def __post_init__(self) -> None:
        for name in ("units", "tokens", "batch_rows"):
            if getattr(self, name) < 1:
                raise UserError(f"got {name}={getattr(self, name)}, expected 1 or more")
        if self.sampling.samples < 2:
            raise UserError(
                f"got samples={self.sampling.samples}, expected 2 or more: scored is what they "
                "share"
            )
        if not self.strengths:
            raise UserError("got no strengths, expected at least one, for example 100 or 4x")
        if self.choice not in ("live", "first", "random"):
            raise UserError(f"got choice {self.choice!r}, expected live, first or random")

    def protocol(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "units": self.units,
            "choice": self.choice,
            "strengths": [str(strength) for strength in self.strengths],
            "random_directions": self.random_directions,
            "tokens": self.tokens,
            **asdict(self.sampling),
        }


def steering_study(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    layers: Mapping[str, Mapping[str, Layer]],
    contexts: Iterable[Contexts],
    judges: Sequence[Judge] = (),
    options: StudyOptions | None = None,
    *,
    on_layer: Callable[[SteeringStudy], None] | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> SteeringStudy:
    """Steer with many units of many layers, and let judges score what is written.

    A judge that can no longer be asked is left out from then on: its missing verdicts count as
    failed, `stopped` says why, and all others go on.

    Args:
        model: the base model.
        tokenizer: its tokenizer.
        layers: layers by the name of their site and their own; those without units are left out.
        contexts: held-out text, to see which units live and how large their coefficients get.
        judges: who scores the samples; without any there are distinct-n and examples.
        options: units, strengths, sampling; the paper's by default.
        on_layer: called after each layer with the study so far.
        on_progress: called with a layer's name, samples written and samples to write.

    Returns:
        Scores by layer, strength and judge.

    Raises:
        UserError: no layer with units that fire, or predictions that are no numbers.
    """
    options = options or StudyOptions()
    sparse = some_sparse_layers(layers, "to steer with")
    writer = Writer(model, tokenizer, options.prompt, options.sampling, options.batch_rows)
    panel = Panel(judges)
    first = writer.unsteered()
    base = _swept(panel, [None], [first])
    study = SteeringStudy(
        options.prompt, options.protocol(), base, first.texts, [], [], panel.stopped
    )
    found = find_firings(model, sparse, contexts, tokens=options.tokens)
    for site, name, firing in found:
        if not bool(firing.counts.any()):
            _logger.warning("no unit of %s fires on the held-out text: it is left out", name)
            continue
        with writer.at(site, sparse[site][name]):
            study.layers.append(
                _LayerStudy(name, site, firing, writer, panel, options, on_progress).run()
            )
        study.judges[:] = panel.usage()
        if on_layer is not None:
            on_layer(study)
    if not study.layers:
        raise UserError(
            "got no layer with a unit that fires on the held-out text, expected one; read more "
            "with --tokens"
        )
    return study


class _LayerStudy:
    """One layer: its units, each strength, and the control."""

    def __init__(
        self,
        name: str,
        site: str,
        firing: Firing,
        writer: Writer,
        panel: Panel,
        options: StudyOptions,
        on_progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self._name, self._site, self._options = name, site, options
        self._layer, self._writer, self._panel = writer.layer, writer, panel
        self._chosen = choose_units(
            firing, options.units, options.choice, seed=options.sampling.seed
        )
        self._examples: list[SteeredExample] = []
        self._say, self._written = on_progress, 0
        kinds = 2 if options.random_directions else 1
        each = len(self._chosen.units) * options.sampling.samples
        self._wanted = each * kinds * len(options.strengths)

    def run(self) -> LayerSteering:
        """Everything there is to know of the layer."""
        config, chosen = self._layer.config, self._chosen
        plain = self._writer.plain()
        self._examples.append(_example(None, None, None, plain))
        unsteered = _swept(self._panel, [None], [plain])
        return LayerSteering(
            name=self._name,
            site=self._site,
            architecture=config.architecture,
            k=config.k,
            width=config.n_units,
            units=chosen.units,
            dead_skipped=chosen.dead_skipped,
            dead_steered=chosen.dead,
            unsteered=unsteered,
            strengths=[self._at(strength) for strength in self._options.strengths],
            examples=self._examples,
        )

    def _at(self, strength: Strength) -> tuple[Strength, Swept, Swept | None]:
        chosen = _steerable(self._chosen, strength)
        added = [strength.of(maximum) for _, maximum in chosen]
        units = [unit for unit, _ in chosen]
        sets = self._write(self._layer.unit_rows.detach()[units], added)
        for unit, amount, texts in list(zip(units, added, sets, strict=True))[:_EXAMPLE_UNITS]:
            self._examples.append(_example(unit, str(strength), amount, texts))
        own = _swept(self._panel, chosen, sets, added)
        if not self._options.random_directions:
            return strength, own, None
        directions = random_rows(self._layer, units, seed=self._options.sampling.seed)
        return strength, own, _swept(self._panel, chosen, self._write(directions, added), added)

    def _write(self, directions: torch.Tensor, added: list[float]) -> list[TextSet]:
        def say(samples: int) -> None:
            self._written += samples
            if self._say is not None:
                self._say(self._name, self._written, self._wanted)

        return self._writer.steered(directions, torch.tensor(added), say)


def _steerable(chosen: ChosenUnits, strength: Strength) -> list[tuple[int, float]]:
    """Units and maxima; a unit that never fires has no multiples of its maximum."""
    return [
        (unit, maximum)
        for unit, maximum in zip(chosen.units, chosen.maxima, strict=True)
        if maximum > 0 or strength.unit_of == "absolute"
    ]


def _swept(
    panel: Panel,
    units: Sequence[tuple[int, float] | None],
    sets: Sequence[TextSet],
    added: Sequence[float] | None = None,
) -> Swept:
    verdicts = panel.score([texts.texts for texts in sets])
    return Swept(
        [
            UnitScores(
                unit=None if unit is None else unit[0],
                maximum=None if unit is None else unit[1],
                added=None if added is None else added[number],
                verdicts=verdicts[number],
                distinct_1=distinct(texts.tokens, 1),
                distinct_2=distinct(texts.tokens, 2),
            )
            for number, (unit, texts) in enumerate(zip(units, sets, strict=True))
        ]
    )


def _example(
    unit: int | None, strength: str | None, added: float | None, texts: TextSet
) -> SteeredExample:
    return SteeredExample(unit, strength, added, texts.texts[:_EXAMPLE_SAMPLES])
