"""The YAML file of ablations: what it may hold, and the students it makes."""

from pathlib import Path

import pytest

from mxd.errors import UserError
from mxd.training import LayerOverrides, StudentSpec, read_ablations

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "ablations.yaml"


def written(folder: Path, content: str) -> Path:
    path = folder / "ablations.yaml"
    path.write_text(content, encoding="utf-8")
    return path


def test_file_makes_the_base_line_and_a_student_for_each_line(tmp_path: Path) -> None:
    content = (
        "base: {architecture: mxd, k: 5, seeds: [1, 2]}\n"
        "ablations:\n- {name: relu, activation: relu}\n"
        "- name: wide\n  width: 30\n  random_k: true\n"
    )
    found = read_ablations(written(tmp_path, content))
    relu, wide = LayerOverrides(activation="relu"), LayerOverrides(width=30, random_k=True)
    assert found.students(k=9, seeds=(7,)) == tuple(
        StudentSpec(architecture="mxd", k=5, seed=seed, variant=label, options=options)
        for seed in (1, 2)
        for label, options in ((None, LayerOverrides()), ("relu", relu), ("wide", wide))
    )


def test_base_line_is_the_sweeps_where_the_file_does_not_say(tmp_path: Path) -> None:
    path = written(tmp_path, "ablations: [{name: relu, activation: relu}]")
    students = read_ablations(path).students(k=9, seeds=(7, 8), rates=(1e-3, 1e-2))
    assert {(s.architecture, s.k) for s in students} == {("mxd", 9)}
    assert [(s.seed, s.lr, s.variant) for s in students] == [
        (seed, rate, label) for seed in (7, 8) for rate in (1e-3, 1e-2) for label in (None, "relu")
    ]


def test_example_covers_the_papers_ablations() -> None:
    variants = read_ablations(EXAMPLE).variants
    changed = {name for options in variants.values() for name in options.given()}
    assert changed == {
        "activation", "width", "d_hidden", "shared_experts", "random_k", "unit_norm", "start",
    }  # fmt: skip
    assert all(len(options.given()) == 1 for options in variants.values())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "is not YAML"),
        ("\x00", "is not YAML"),
        ("", "holds no keys"),
        ("[1]", "holds no keys"),
        ("ablation: []", "the key 'ablation'"),
        ("ablations: []", "no list of ablations"),
        ("ablations: {name: a}", "no list of ablations"),
        ("ablations: [relu]", "'relu' as ablation 1"),
        ("ablations: [{width: 3}]", "as ablation 1, expected a mapping with a name"),
        ("ablations: [{name: 3, width: 3}]", "expected a mapping with a name"),
        ("ablations: [{name: a}]", "changes nothing in ablation 1"),
        ("ablations: [{name: a, width: }]", "changes nothing in ablation 1"),
        ("ablations: [{name: a, k: 3}]", "the key 'k' in ablation 1"),
        ("ablations: [{name: a, with: 3}]", "the key 'with' in ablation 1, expected name, width"),
        ("ablations: [{name: a, width: x}]", "ablation 1 (a), does not hold"),
        ("ablations: [{name: a, width: 0}]", "width=0"),
        ("ablations: [{name: a, width: 1.5}]", "got 1.5, expected int"),
        ("ablations: [{name: a, random_k: 1}]", "got 1, expected bool"),
        ("ablations: [{name: a, activation: sine}]", "activation 'sine'"),
        ("ablations: [{name: a, start: warm}]", "start 'warm'"),
        ("ablations: [{name: A b, width: 3}]", "variant 'A b'"),
        ("ablations: [{name: a, width: 3}, {name: a, width: 4}]", "two ablations named 'a'"),
        ("base: mxd\nablations: [{name: a, width: 3}]", "a base 'mxd'"),
        ("base: {lr: 1}\nablations: [{name: a, width: 3}]", "the key 'lr' in base"),
        ("base: {k: two}\nablations: [{name: a, width: 3}]", "base k: 'two'"),
        ("base: {k: 0}\nablations: [{name: a, width: 3}]", "base k: 0"),
        ("base: {seeds: 3}\nablations: [{name: a, width: 3}]", "base seeds: 3"),
        ("base: {seeds: [-1]}\nablations: [{name: a, width: 3}]", "seed=-1"),
        ("base: {architecture: moe}\nablations: [{name: a, width: 3}]", "architecture 'moe'"),
        (
            "base: {architecture: transcoder}\nablations: [{name: a, activation: relu}]",
            "got activation for transcoder",
        ),
    ],
)
def test_bad_file_is_refused_with_its_place(tmp_path: Path, content: str, said: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UserError) as error:
        read_ablations(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_ablations(tmp_path / "none.yaml")
