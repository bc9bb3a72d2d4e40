"""Write sets of samples from one prompt, a batch of rows at a time."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mxd.evaluation.steering.layers import SteeredRows
from mxd.evaluation.steering.sampling import Sampling, encode_prompt, sample, uniform_draws
from mxd.evaluation.steering.steer import decode
from mxd.host import MLPSite, find_site, graft
from mxd.layers import SparseLayer


@dataclass(frozen=True)
class TextSet:
    """The samples of one set."""

    texts: list[str]
    """As text, without the prompt and without special tokens."""
    tokens: list[list[int]]
    """As tokens."""


class Writer:
    """Writes from a prompt with directions of a layer turned up, or with none."""

    layer: SparseLayer
    """The layer in place, within `at`."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str,
        sampling: Sampling,
        batch_rows: int,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._sampling, self._batch_rows = sampling, batch_rows
        self._prompt = encode_prompt(model, tokenizer, prompt, room=sampling.max_new_tokens)
        self._draws = uniform_draws(sampling)
        self._site: MLPSite | None = None

    @contextlib.contextmanager
    def at(self, site: str, layer: SparseLayer) -> Iterator[None]:
        """Write with this layer in place of this site's module."""
        found = find_site(self._model, site)
        with graft(self._model, {found: layer}):  # warns once of another base model
            pass
        self._site, self.layer = found, layer
        yield
        self._site = None

    def unsteered(self) -> TextSet:
        """A set of the base model itself."""
        return self._set(sample(self._model, self._prompt, self._draws, self._sampling))

    def plain(self) -> TextSet:
        """A set with the layer in place and nothing added."""
        assert self._site is not None
        with graft(self._model, {self._site: self.layer}, check=False):
            return self.unsteered()

    def steered(
        self,
        directions: Float[Tensor, "sets d_out"],
        added: Float[Tensor, "sets"],
        on_written: Callable[[int], None],
    ) -> list[TextSet]:
        """A set for each direction, `added` times of which is added at every token.

        Every row of a batch may belong to another set; each has the draws of its sample.
        """
        assert self._site is not None
        samples = len(self._draws)
        owners = torch.arange(len(directions)).repeat_interleave(samples)
        draws = self._draws.repeat(len(directions), 1)
        written = []
        for rows in torch.arange(len(owners)).split(self._batch_rows):
            of = owners[rows]
            stand_in = SteeredRows(self.layer, directions[of.to(directions.device)], added[of])
            with graft(self._model, {self._site: stand_in}, check=False):
                written.append(sample(self._model, self._prompt, draws[rows], self._sampling))
            on_written(len(rows))
        return [self._set(ids) for ids in torch.cat(written).split(samples)] if written else []

    def _set(self, ids: Tensor) -> TextSet:
        return TextSet(decode(self._tokenizer, ids), ids.tolist())


def unsteered_texts(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, sampling: Sampling
) -> list[str]:
    """What the base model writes by itself."""
    return Writer(model, tokenizer, prompt, sampling, sampling.samples).unsteered().texts
