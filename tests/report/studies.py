"""Results of probing, steering and editing, with made-up figures of a likely size."""

from typing import Any

import numpy as np

Document = dict[str, Any]
CLASSES = ("World", "Sports", "Business", "Sci/Tech")


def probe(sparse: list[Document], rng: np.random.Generator) -> Document:
    """A document of `mxd probe`."""
    layers = []
    for layer in sparse:
        good = 0.78 if layer["architecture"] == "mxd" else 0.7
        f1 = good + 0.02 * rng.standard_normal(len(CLASSES))
        mean = float(f1.mean())
        classes = {
            name: {
                "unit": 17 + place,
                "f1": float(f1[place]),
                "f1_ci": [float(f1[place]) - 0.03, float(f1[place]) + 0.03],
                "balanced_accuracy": 0.8,
                "support": 480,
            }
            for place, name in enumerate(CLASSES)
        }
        grown = {"1": mean, "2": mean + 0.03, "5": mean + 0.06, "16": mean + 0.08, "all": 0.88}
        layers.append(
            {
                **{key: layer[key] for key in ("name", "site", "architecture", "k", "width")},
                "seed": layer["seed"],
                "candidates": 100,
                "classes": classes,
                "f1_mean": mean,
                "f1_mean_ci": [mean - 0.015, mean + 0.015],
                "f1_by_k": grown,
                "dense_f1": 0.91,
                "neuron_f1": 0.55,
                "random_f1": 0.48,
                "f1_equal_candidates": mean - 0.02,
                "paper_f1_mean": None,
            }
        )
    return {
        "kind": "probe",
        "command": "mxd probe run --task ag_news",
        "task": "ag_news",
        "level": "text",
        "selection": "train",
        "train_texts": 8000,
        "test_texts": 2000,
        "skipped_texts": 3,
        "layers": layers,
        "differences": [
            {
                "ours": layers[0]["name"],
                "theirs": layers[-1]["name"],
                "f1_mean_difference": 0.071,
                "ci": [0.05, 0.09],
            }
        ],
    }


def steering(sparse: list[Document]) -> Document:
    """A document of `mxd steer --study`."""

    def scores(concept: float, fluency: float) -> Document:
        both = {"concept": concept, "concept_se": 0.02, "fluency": fluency, "fluency_se": 0.02}
        return {judge: {**both, "failed": 1} for judge in ("offline", "gpt-judge")}

    layers = []
    for layer in sparse:
        top = 0.8 if layer["architecture"] == "mxd" else 0.6
        layers.append(
            {
                **{key: layer[key] for key in ("name", "site", "architecture", "k")},
                "strengths": [
                    {
                        "strength": strength,
                        "unit_of": unit,
                        "judges": scores(0.15 + top * step / 5, 0.95 - 0.03 * step**2),
                        "distinct_1": 0.4,
                        "distinct_2": 0.7,
                        "random_direction": {
                            "judges": scores(0.15 + 0.05 * step, 0.95 - 0.04 * step**2)
                        },
                    }
                    for step, (strength, unit) in enumerate(
                        [(1.0, "max"), (4.0, "max"), (16.0, "max"), (100.0, "absolute")], 1
                    )
                ],
                "dead_skipped": 3,
                "examples": [
                    {"unit": 21, "strength": "4x", "added": 9.0, "samples": ["the sea"] * 3}
                ],
            }
        )
    unsteered = {"judges": scores(0.15, 0.95), "samples": ["Let's talk about the news."] * 4}
    return {
        "kind": "steering",
        "command": "mxd steer run --study 50",
        "prompt": "Let's talk about ",
        "layers": layers,
        "unsteered": unsteered,
        "judges": [{"name": "offline", "verdicts": 90, "failed": 1, "cost": None}],
        "stopped": {"gpt-judge": "it cannot be reached"},
    }


def editing(sparse: list[Document]) -> Document:
    """A document of `mxd edit --study`."""

    def edit(ranking: str, m: int, target: float, keep: float, draw: int | None) -> Document:
        return {
            "ranking": ranking,
            "m": m,
            "draw": draw,
            "units": list(range(m)),
            "target_rise": target,
            "target_rise_se": 0.002,
            "keep_rise": keep,
            "keep_rise_se": 0.001,
            "selectivity": target - keep,
            "selectivity_se": 0.0022,
            "ratio": target / keep,
        }

    layers = []
    for layer in sparse:
        sharp = 1.0 if layer["architecture"] == "mxd" else 0.6
        edits = [
            edit(ranking, m, sharp * 0.02 * m**0.6, 0.004 * m**0.6, None)
            for ranking in ("attribution", "probing")
            for m in (1, 4, 16, 64)
        ]
        edits += [
            edit("random_matched", m, 0.004 * m**0.5, 0.003 * m**0.5 + 1e-4 * draw, draw)
            for m in (1, 4, 16, 64)
            for draw in range(3)
        ]
        kept = {key: layer[key] for key in ("name", "site", "architecture", "k", "width")}
        zero = {key: edits[0][key] * 50 for key in ("target_rise", "keep_rise", "selectivity")}
        ablation = {"zero": zero, "mean": None}
        layers.append({**kept, "edits": edits, "ablation": ablation})
    return {
        "kind": "editing",
        "command": "mxd edit run --study --target code --keep prose",
        "target": {"text": "code.jsonl", "tokens": 25_000},
        "keep": {"text": "prose.txt", "tokens": 25_000},
        "scale": 0.0,
        "rankings": ["attribution", "probing"],
        "layers": layers,
    }
