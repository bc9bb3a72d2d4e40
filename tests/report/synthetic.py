"""Run folders as training and evaluation leave them, with made-up figures of a likely size."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests.report.studies import editing, probe, steering

Document = dict[str, Any]
SITE = "transformer.h.8.mlp"
COMMAND = "mxd eval run"
_LEVEL = {"mxd": 0.19, "skip_transcoder": 0.24, "transcoder": 0.28, "topk_autoencoder": 0.22}
_LOSS = {"mxd": 0.004, "skip_transcoder": 0.016, "transcoder": 0.021, "topk_autoencoder": 0.011}


class Synthetic:
    """Makes the files of one run; the same arguments give the same files."""

    def __init__(
        self,
        *,
        architectures: Sequence[str] = ("mxd", "transcoder", "skip_transcoder"),
        ks: Sequence[int] = (16, 32),
        seeds: Sequence[int] = (1, 2),
        site: str = SITE,
        model: str = "gpt2",
        variants: Sequence[str] = (),
    ) -> None:
        self._rng = np.random.default_rng(seeds[0])
        self.site, self.model = site, model
        self.layers = [
            self._layer(architecture, k, seed)
            for architecture in architectures
            for k in ks
            for seed in seeds
        ]
        for seed in seeds:
            self.layers.append(self._layer("dense_mlp", None, seed))
            self.layers.append(self._layer("mlp_transcoder", ks[0], seed))
            self.layers += [self._layer("mxd", ks[0], seed, variant) for variant in variants]

    def _layer(self, arch: str, k: int | None, seed: int, variant: str | None = None) -> Document:
        noise = 1 + 0.03 * self._rng.standard_normal()
        shrink = (32 / (k or 32)) ** 0.3
        label = f"-{variant}" if variant else ""
        width = None if arch == "dense_mlp" else 21490 if arch == "mxd" else 24576
        of = (0.15, 0.002) if k is None else (_LEVEL.get(arch, 0.2), _LOSS.get(arch, 0.003))
        sparse = arch == "mxd"
        return {
            "name": f"{arch}-k{k or 0}-w{width or 0}-s{seed}{label}",
            "site": self.site,
            "architecture": arch,
            "k": k,
            "width": width,
            "seed": seed,
            "parameters": 37_800_000,
            "active_parameters": 4_700_000 + 768 * (k or 0)
            if sparse
            else 600_000 + 1536 * (k or 0),
            "flops_per_token": 42_000_000,
            "nmse": of[0] * shrink * noise,
            "nmse_without_bos": of[0] * shrink * noise,
            "fvu": 0.2,
            "static_nmse": 0.9 if sparse else None,
            "modulation_share": 0.87 if sparse else None,
            "cross_entropy": 3.6,
            "delta_cross_entropy": of[1] * shrink * noise,
            "delta_cross_entropy_se": 0.0006,
            "loss_recovered": 1 - of[1] * shrink * noise / 0.6,
            "kl": 0.01,
            "l0": k and k - 0.2,
            "dead_fraction": None if k is None else 0.2 + 0.1 * noise,
            "usage_entropy": None if k is None else 0.8,
            "max_expert_frequency": None if k is None else 0.25,
            "experts_above_10pct": None if k is None else 3,
            "top_expert_share": None if k is None else 0.02,
        }

    def write(self, folder: Path, *, only: Sequence[str] | None = None, **changes: Any) -> Path:
        """The folder, or a part of what is in eval/; `changes` go into run.json."""
        folder.mkdir(parents=True)
        _json(folder / "run.json", self.record() | changes)
        if only is None:
            rows = "".join(json.dumps(row) + "\n" for row in self.metrics())
            (folder / "metrics.jsonl").write_text(rows)
        for layer in self.layers:
            summary = {"tokens": 4_800_000, "still_falling": layer["k"] == 16, "diverged": False}
            path = folder / "layers" / layer["site"] / layer["name"] / "config.json"
            path.parent.mkdir(parents=True)
            _json(path, {"format": "mxd-layer", "training": summary})
        (folder / "eval").mkdir()
        for name, document in self.documents().items():
            if only is None or name in only:
                _json(folder / "eval" / f"{name}.json", document)
        return folder

    def record(self) -> Document:
        """run.json."""
        return {
            "base_model": {"name": f"openai-community/{self.model}", "revision": "607a30d"},
            "command": ["mxd", "sweep", self.model, "--preset", "gpt2-124m", "--scale", "0.01"],
            "recipe": {
                "text": {"source": "Skylion007/openwebtext", "eval_source": None},
                "layers": [8],
                "layer": {"expansion": 32.0, "rule": "paper", "width": None},
                "optimizer": {"loss": "normalized_mse", "lr": {"mxd": 0.001}},
                "students": [{"architecture": "mxd"}],
            },
            "seeds": {"run": 42, "students": sorted({x["seed"] for x in self.layers})},
            "students": [{"site": x["site"], "name": x["name"], "lr": 1e-3} for x in self.layers],
            "versions": {"mxd": "0.2.0", "python": "3.11.9", "torch": "2.13.0"},
            "data": {"fingerprint": "9c1185a5", "tokens_trained": 4_800_000},
            "notes": ["Trained on 1 % of the preset's tokens."],
            "complete": True,
        }

    def metrics(self) -> list[Document]:
        """Lines of metrics.jsonl."""
        return [
            {
                "step": step,
                "tokens": step * 240_000,
                "site": layer["site"],
                "student": layer["name"],
                "nmse": layer["nmse"] * (1 + 3 * math.exp(-step / 4)),
                "lr": 1e-3,
                "smallest_singular_value": 0.02 * math.exp(-step / 30) * (layer["k"] or 1)
                if layer["architecture"] == "mxd" and step % 2
                else None,
            }
            for step in range(1, 21)
            for layer in self.layers
        ]

    def documents(self) -> dict[str, Document]:
        """The files of eval/."""
        sparse = [one for one in self.layers if one["k"] and "-w" in one["name"]]
        held_out = self.evaluation("held-out part of openwebtext") | {
            "geometry": [self._geometry(one) for one in sparse],
            "specialisation": [self._usage(one) for one in sparse],
        }
        return {
            "held-out": held_out,
            "text-code": self.evaluation("code.jsonl", harder=3.0),
            "doctor": self._doctor(),
            "probe-ag_news": probe(sparse, self._rng),
            "steering": steering(sparse),
            "editing-code-prose": editing(sparse),
            "units": self._units(),
        }

    def evaluation(self, text: str, harder: float = 1.0) -> Document:
        """A document of `mxd eval`."""
        layers = [
            one | {"delta_cross_entropy": harder * one["delta_cross_entropy"]}
            for one in self.layers
        ]
        ablations = {"zero_ablation_cross_entropy": 3.81, "mean_ablation_cross_entropy": 3.72}
        return {
            "kind": "faithfulness",
            "command": COMMAND,
            "text": text,
            "tokens": 200_064,
            "documents": 412,
            "base_cross_entropy": 3.207 * harder,
            **ablations,
            "static_reference": "training",
            "layers": layers,
            "sites": [{"site": self.site, **ablations}],
            "together": [],
        }

    def _of(self, layer: Document) -> Document:
        return {key: layer[key] for key in ("name", "site", "architecture")}

    def _geometry(self, layer: Document) -> Document:
        values = np.exp(self._rng.normal(-5, 0.4, 16))
        edges = [round(float(edge), 2) for edge in np.linspace(-1, 1, 41)]
        nearest = self._rng.normal(0.5 if layer["architecture"] == "mxd" else 0.3, 0.12, 2000)
        counts = np.histogram(nearest.clip(-1, 1), edges)[0].tolist()
        rank = {
            "experts": list(range(16)),
            "normalised_rank": [1.0] * 15 + [0.99],
            "smallest_singular_value": values.tolist(),
            "effective_rank": [310.0] * 16,
            "mean_normalised_rank": 0.9994,
            "min_normalised_rank": 0.99,
            "mean_smallest_singular_value": float(values.mean()),
            "min_smallest_singular_value": float(values.min()),
            "mean_effective_rank": 310.0,
            "zeroed_modulators": 0,
        }
        similarity = {
            "units": 9000,
            "mean_cosine": 0.01,
            "queries": 2000,
            "mean_nearest_cosine": float(nearest.mean()),
            "twin_share": 0.004,
            "nearest_cosine_edges": edges,
            "nearest_cosine_counts": counts,
        }
        ranked = rank if layer["architecture"] == "mxd" else None
        return {**self._of(layer), "rank": ranked, "similarity": similarity}

    def _usage(self, layer: Document) -> Document:
        edges = np.linspace(-5, 0, 21)
        middle = -3.2 if layer["architecture"] == "mxd" else -3.6
        counts = np.histogram(self._rng.normal(middle, 0.6, 8000), edges)[0].tolist()
        overlap = {"mean": 0.04, "nearest": 0.21, "chance_mean": 0.09, "chance_nearest": 0.14}
        return {
            **self._of(layer),
            "tokens": 50_000,
            "units": layer["width"],
            "dead_fraction": layer["dead_fraction"],
            "usage_entropy": 0.81,
            "max_frequency": 0.31,
            "always_on": [],
            "above_10pct": 3,
            "log10_frequency_edges": edges.tolist(),
            "log10_frequency_counts": counts,
            "share_of_top_1": 0.02,
            "share_of_top_10": 0.11,
            "share_of_top_1pct": 0.33,
            "share_of_top_10pct": 0.71,
            "overlap": {"units": 200, "token_sets": overlap},
        }

    def _doctor(self) -> Document:
        finding = {
            "signature": "dead_experts",
            "severity": "warning",
            "site": self.site,
            "layer": self.layers[0]["name"],
            "figure": "dead_fraction",
            "value": 0.59,
            "threshold": 0.5,
            "detail": "59.0 % of 21490 units never fired",
            "explanation": "Many experts never fire: the layer is smaller than it looks.",
            "remedy": "Train longer, on more varied text, or turn on --auxk-coefficient.",
        }
        layers = [{**self._of(one), "findings": []} for one in self.layers]
        layers[0]["findings"] = [finding]
        return {"kind": "doctor", "command": "mxd doctor run", "layers": layers}

    def _units(self) -> Document:
        example = {"before": "at the ", "token": "port", "after": " of", "value": 5.2, "level": 0.5}
        unit = {
            "unit": 1184,
            "frequency": 0.0042,
            "largest": 5.21,
            "selectivity": 3.941,
            "examples": [example] * 5,
        }
        texts = {"plain": "The function returns it", "steered": "The function returns the sea"}
        steered = {"prompt": "The function", "unit": 7, "strength": 100.0, **texts}
        return {"student": self.layers[0]["name"], "units": [unit], "steered": steered}


def _json(path: Path, document: Document) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")
