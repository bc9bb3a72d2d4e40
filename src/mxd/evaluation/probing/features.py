"""What is probed with: coefficients of every layer's units, and the MLP's own input and output."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy import sparse
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.evaluation.probing.tokens import Rows
from mxd.host import capture, find_site, input_device
from mxd.layers import SparseLayer

SparseLayers = Mapping[str, Mapping[str, SparseLayer]]
"""Layers by the name of their site and their own."""


@dataclass
class SiteFeatures:
    """Values of each row at one site."""

    units: dict[str, Any]
    """For each layer its coefficients, sparse (rows, units)."""
    dense_rows: Int64[np.ndarray, " kept"]
    """The rows whose dense values are kept."""
    x: Float32[np.ndarray, "kept d_in"]
    """The MLP's input."""
    y: Float32[np.ndarray, "kept d_out"]
    """The MLP's output."""


@torch.no_grad()
def collect(
    model: nn.Module,
    layers: SparseLayers,
    rows: Rows,
    *,
    dense_rows: Int64[np.ndarray, " kept"],
    bos_token_id: int | None = None,
    batch_texts: int = 32,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, SiteFeatures]:
    """Run the model once over all texts, and take every layer's coefficients on the way.

    Args:
        model: the base model.
        layers: layers with units, by site and name.
        rows: the texts, and which of their tokens count.
        dense_rows: rows whose dense values to keep, sorted.
        bos_token_id: put in front of each text; None where the model has none.
        batch_texts: texts in a forward pass; texts of similar length go together.
        on_progress: called with the texts done and all texts after each batch.

    Raises:
        UserError: activations that are not finite.
    """
    sites = {name: find_site(model, name) for name in layers}
    device = input_device(model)
    parts = {site: _Parts({name: [] for name in of}) for site, of in layers.items()}
    order: list[int] = []
    done = 0
    for texts in _batches(rows, batch_texts):
        tokens, mask, offset = _padded([rows.token_ids[n] for n in texts], bos_token_id)
        activations = capture(
            model, list(sites.values()), tokens.to(device), attention_mask=mask.to(device)
        )
        numbers, flat, pooling = _pooling(rows, texts, tokens.shape[1], offset)
        kept = np.isin(numbers, dense_rows)
        for site, (x, y) in activations.items():
            x, y = (value.flatten(0, 1)[flat.to(value.device)] for value in (x, y))
            if not (bool(x.isfinite().all()) and bool(y.isfinite().all())):
                raise UserError(
                    f"NaN or infinite activations at site {site}; check the model's weights and "
                    "the precision it runs in"
                )
            parts[site].x.append((pooling @ _numpy(x))[kept].astype(np.float32))
            parts[site].y.append((pooling @ _numpy(y))[kept].astype(np.float32))
            for name, layer in layers[site].items():
                codes = _codes(layer, y if layer.reads == "output" else x)
                parts[site].units[name].append((pooling @ codes).astype(np.float32))
        order += numbers.tolist()
        done += len(texts)
        if on_progress is not None:
            on_progress(done, len(rows.token_ids))
    rows_seen = np.array(order, dtype=np.int64)
    places = np.argsort(rows_seen)
    dense = np.argsort(rows_seen[np.isin(rows_seen, dense_rows)])
    return {site: part.joined(places, dense, dense_rows) for site, part in parts.items()}


class _Parts:
    """The values of the batches so far."""

    def __init__(self, units: dict[str, list[Any]]) -> None:
        self.units = units
        self.x: list[Float32[np.ndarray, "some d_in"]] = []
        self.y: list[Float32[np.ndarray, "some d_out"]] = []

    def joined(
        self,
        places: Int64[np.ndarray, " rows"],
        dense: Int64[np.ndarray, " kept"],
        dense_rows: Int64[np.ndarray, " kept"],
    ) -> SiteFeatures:
        units = {
            name: sparse.vstack(blocks, format="csr")[places] for name, blocks in self.units.items()
        }
        x, y = (np.concatenate(blocks)[dense] for blocks in (self.x, self.y))
        return SiteFeatures(units, dense_rows, x, y)


def _batches(rows: Rows, batch_texts: int) -> Iterator[list[int]]:
    order = sorted(range(len(rows.token_ids)), key=lambda n: len(rows.token_ids[n]))
    for start in range(0, len(order), batch_texts):
        yield order[start : start + batch_texts]


def _padded(
    texts: list[Int64[np.ndarray, "_"]], bos_token_id: int | None
) -> tuple[Tensor, Tensor, int]:
    """Tokens with BOS in front and padding behind, the attention mask, and the length of BOS.

    Attention looks back alone, so that padding behind a text changes none of its values.
    """
    offset = 0 if bos_token_id is None else 1
    tokens = torch.zeros(len(texts), offset + max(map(len, texts)), dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, ids in enumerate(texts):
        if bos_token_id is not None:
            tokens[row, 0] = bos_token_id
        tokens[row, offset : offset + len(ids)] = torch.from_numpy(ids)
        mask[row, : offset + len(ids)] = 1
    return tokens, mask, offset


def _pooling(
    rows: Rows, texts: list[int], width: int, offset: int
) -> tuple[Int64[np.ndarray, " some"], Tensor, Any]:
    """Row numbers of a batch, flat places of the tokens that count, and rows as means of these."""
    flat = np.concatenate([rows.places[n] + offset + i * width for i, n in enumerate(texts)])
    row_of = np.concatenate([rows.row_of[n] for n in texts])
    weights = np.concatenate([rows.weights(n) for n in texts])
    numbers, local = np.unique(row_of, return_inverse=True)
    shape = (len(numbers), len(flat))
    pooling = sparse.csr_matrix((weights, (local, np.arange(len(flat)))), shape=shape)
    return numbers, torch.from_numpy(flat), pooling


def _codes(layer: SparseLayer, fed: Tensor) -> Any:
    """Coefficients of tokens, sparse (tokens, units)."""
    codes = layer.encode(fed.to(layer.bias.device, layer.bias.dtype))
    active = (codes.values > 0).cpu()
    token = torch.arange(len(fed)).unsqueeze(-1).expand(active.shape)[active].numpy()
    values, units = _numpy(codes.values.cpu()[active]), codes.indices.cpu()[active].numpy()
    return sparse.csr_matrix((values, (token, units)), shape=(len(fed), layer.config.n_units))


def _numpy(values: Tensor) -> Any:
    return values.double().cpu().numpy()
