"""The paper's own numbers, where a run was set up as one of the paper's."""

import re
from dataclasses import dataclass
from typing import Any

from mxd.report._show import number, percent
from mxd.report.reading import mapping, mappings


@dataclass(frozen=True)
class Published:
    """What the paper reports for a preset."""

    preset: str
    """Name of the preset."""
    scale: float | None
    """Share of the preset's token budget that the run was set to."""
    layer: int | None
    """Index of the block that it belongs to."""
    base_cross_entropy: float | None
    """Of the base model on the paper's text, in nats per token."""
    points: dict[str, list[tuple[int, float]]]
    """(K, increase of the cross-entropy in nats per token) by architecture, K ascending."""
    source: str
    """Where the numbers come from."""

    def sentence(self) -> str:
        """What a caption says of the paper's curve."""
        whole = self.scale is None or self.scale == 1
        scale = "as many tokens" if whole else f"{percent(self.scale)} of those tokens"
        return (
            f"Dashed lines with open markers are the paper's numbers for {self.preset} "
            f"({self.source}), evaluated on text seen in training; this run was set to {scale}."
        )

    def belongs_to(self, site: str, sites: int) -> bool:
        """Whether a site is the paper's, by the index of its block in its name."""
        if self.layer is None:
            return sites == 1
        blocks = re.findall(r"(?:^|\.)(\d+)(?:\.|$)", site)
        return blocks[:1] == [str(self.layer)]


def published_of(record: dict[str, Any]) -> Published | None:
    """The paper's numbers that belong beside a run's; None where its set-up is another.

    Args:
        record: content of run.json; its `preset` holds name, layer, scale and published numbers,
            its recipe the widths of the layers.
    """
    preset = mapping(record.get("preset"))
    numbers = mapping(preset.get("published"))
    points: dict[str, list[tuple[int, float]]] = {}
    for one in mappings(numbers.get("points")):
        k, delta = number(one.get("k")), number(one.get("delta"))
        if k is not None and delta is not None and k >= 1:
            points.setdefault(str(one.get("architecture")), []).append((int(k), delta))
    if not points or not _as_wide_as_published(record):
        return None
    layer = number(preset.get("layer"))
    return Published(
        str(preset.get("name")),
        number(preset.get("scale")),
        None if layer is None else int(layer),
        number(numbers.get("base_cross_entropy")),
        {name: sorted(of) for name, of in points.items()},
        str(numbers.get("source") or "arXiv 2505.21364"),
    )


def _as_wide_as_published(record: dict[str, Any]) -> bool:
    """The paper's layers have the parameters of a transcoder of width 32 d, N by its own rule."""
    layer = mapping(mapping(record.get("recipe")).get("layer"))
    default = {"expansion": 32, "rule": "paper", "width": None}
    return all(layer.get(key, value) == value for key, value in default.items())
