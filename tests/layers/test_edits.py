"""Edits against an explicit sum over experts, and what is kept of them in a layer's folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.layers._examples import KINDS, SPARSE, UNITS, described, filled, fresh, inputs

import mxd.layers
from mxd.errors import UserError
from mxd.layers import Edit, MxD, SparseLayer, edited
from mxd.layers._parts import hidden_units
from mxd.layers.edits import MAX_EDITS

UNIT = st.integers(0, UNITS - 1)
FACTOR = st.sampled_from([0.0, 0.5, -1.0, 3.0])


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    condition: dict[str, Any] = draw(
        st.one_of(
            st.just({}),
            st.fixed_dictionaries({"where": UNIT}),
            st.fixed_dictionaries({"unless": UNIT}),
        )
    )
    what: dict[str, Any] = draw(
        st.one_of(
            st.fixed_dictionaries({"scale": FACTOR}),
            st.just({"remove": True}),
            st.fixed_dictionaries({"replace_by": UNIT}),
        )
    )
    return Edit(draw(UNIT), **what, **condition)


def expected(layer: SparseLayer, x: torch.Tensor, changes: list[Edit]) -> np.ndarray:
    """ŷ token by token as Σ_n a_n W_nᵀ z + b, with everything edited by hand; NumPy, float64."""
    shared = getattr(layer.config, "shared_experts", 0)
    rows, gate, gate_bias, bias = (
        t.detach().numpy().copy()
        for t in (
            layer.unit_rows, layer.gate_linear.weight, layer.gate_linear.bias, layer.bias,
        )
    )  # fmt: skip
    removed = {e.unit for e in changes if e.remove and not e.conditional and e.unit >= shared}
    before = rows.copy()
    for edit in changes:
        if not edit.conditional and edit.replace_by is not None:
            rows[edit.unit] = before[edit.replace_by]
    for edit in changes:
        if not edit.conditional and (
            edit.scale is not None or (edit.remove and edit.unit < shared)
        ):
            rows[edit.unit] *= edit.scale or 0
    with torch.no_grad():
        plain = layer.decode(zero_codes(layer, x), x).numpy()  # bias, skip and dense terms
        z = None
        if isinstance(layer, MxD):
            z = hidden_units(x, layer.encoder, layer.encoder_up, layer.activation).numpy()
    out = plain.copy()
    for t in range(len(x)):
        fed = x[t].numpy() - (bias if layer.reads == "output" else 0)
        pre = np.maximum(gate @ fed + gate_bias, 0)
        pre[[*removed, *range(shared)]] = 0
        chosen = np.argsort(-pre)[: layer.config.k - shared]
        active = {int(n): pre[n] for n in chosen if pre[n] > 0} | dict.fromkeys(range(shared), 1.0)
        for n, coefficient in active.items():
            factor, source = 1.0, n
            for edit in changes:
                where = edit.where is not None and edit.where in active
                unless = edit.unless is not None and edit.unless not in active
                if edit.unit != n or not (where or unless):
                    continue
                if edit.replace_by is None:
                    factor *= edit.scale or 0.0
                else:  # of several replacements the last that holds counts
                    source = edit.replace_by
            if z is None:
                out[t] += coefficient * factor * rows[source]
            else:
                weight = layer.decoder.detach().numpy() * rows[source]  # D diag(c)
                out[t] += coefficient * factor * (weight.T @ z[t])
    return out


def zero_codes(layer: SparseLayer, x: torch.Tensor) -> mxd.layers.Codes:
    return mxd.layers.Codes(
        torch.zeros(len(x), 1, dtype=x.dtype), torch.zeros(len(x), 1, dtype=torch.int64)
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SPARSE)), st.lists(edits(), min_size=1, max_size=4), UNIT)
def test_edited_layer_is_the_explicit_sum(kind: str, changes: list[Edit], seed: int) -> None:
    layer = filled(kind, seed)
    assert isinstance(layer, SparseLayer)
    x = inputs(layer, 12)
    changed = edited(layer, changes)
    codes = changed.encode(x)
    assert codes.values.shape == (12, layer.config.k)
    with torch.no_grad():
        np.testing.assert_allclose(changed(x).numpy(), expected(layer, x, changes), atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(edits())
def test_what_is_written_is_read_back(edit: Edit) -> None:
    assert Edit.parse(str(edit)) == edit


def test_edits_leave_the_layer_itself_alone() -> None:
    layer = described(filled("mxd"))
    before = {name: t.clone() for name, t in layer.state_dict().items()}
    edited(layer, [Edit(1, scale=0), Edit(2, remove=True), Edit(3, replace_by=4, where=5)])
    assert all(torch.equal(t, before[name]) for name, t in layer.state_dict().items())
    assert layer.config == filled("mxd").config
    assert layer.provenance.edit_history == ()


def test_removed_unit_gives_its_slot_to_the_next_best() -> None:
    layer = filled("transcoder")
    assert isinstance(layer, SparseLayer)
    x = inputs(layer, 50)
    before = layer.encode(x)
    busiest = int(before.indices[before.values > 0].bincount(minlength=UNITS).argmax())
    silenced = edited(layer, Edit(busiest, scale=0)).encode(x)
    assert torch.equal(silenced.indices, before.indices)
    after = edited(layer, Edit(busiest, remove=True)).encode(x)
    assert not bool(((after.indices == busiest) & (after.values > 0)).any())
    positive = layer.gate_linear(x).clamp_min(0).index_fill(-1, torch.tensor(busiest), 0)
    wanted = positive.topk(layer.config.k).values
    torch.testing.assert_close(after.values, wanted)


@pytest.mark.parametrize("kind", sorted(SPARSE))
def test_folder_keeps_edits(kind: str, tmp_path: Path) -> None:
    layer = described(filled(kind))
    changes = [
        Edit(3, scale=0.5), Edit(4, remove=True), Edit(5, replace_by=6),
        Edit(6, scale=-2, where=7), Edit(7, remove=True, unless=8), Edit(8, replace_by=2, where=7),
        Edit(0, scale=0, where=1), Edit(1, replace_by=0, unless=0),
    ]  # fmt: skip
    changed = edited(layer, changes)
    changed.save_pretrained(tmp_path / "a")
    loaded = mxd.layers.load(tmp_path / "a")
    assert loaded.config == changed.config
    assert loaded.provenance == changed.provenance
    x = inputs(layer, 30)
    assert torch.equal(loaded(x), changed(x))
    assert not torch.allclose(loaded(x), layer(x))
    loaded.save_pretrained(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_card_and_record_say_what_was_edited(tmp_path: Path) -> None:
    layer = described(filled("mxd"))
    once = edited(layer, Edit(3, scale=0))
    twice = edited(once, [Edit(4, replace_by=5, unless=6)])
    assert twice.provenance.edit_history == ("3 scale 0", "4 replace-by 5 unless 6")
    assert twice.provenance.evaluation == {}  # measured before
    assert set(twice.statistics) == {"mean_output"}
    twice.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "## Edited" in card
    assert "* `3 scale 0`\n* `4 replace-by 5 unless 6`" in card
    assert "Nothing yet" in card


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_layer_without_edits_is_written_as_before(kind: str, tmp_path: Path) -> None:
    described(fresh(kind)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert not {"edits", "edit_history"} & set(config)
    assert "dited" not in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unit": -1, "scale": 0}, "got unit=-1, expected the number of a unit"),
        ({"unit": 1}, "expected exactly one of the three"),
        ({"unit": 1, "scale": 0, "remove": True}, "expected exactly one of the three"),
        ({"unit": 1, "scale": float("nan")}, "got scale=nan, expected a finite number"),
        ({"unit": 1, "scale": 10**400}, "expected a finite number"),
        ({"unit": 1, "remove": True, "where": 1, "unless": 2}, "expected at most one condition"),
        ({"unit": 1, "replace_by": -3}, "got replace_by=-3"),
    ],
)
def test_edit_that_makes_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Edit(**arguments)


@pytest.mark.parametrize(
    "text",
    [
        "9" * 5000 + " remove",
        "",
        "21",
        "21 scale",
        "21 scale x",
        "x scale 0",
        "21 scale 0 where",
        "1 remove 3",
    ],
)
def test_edit_that_is_not_written_so(text: str) -> None:
    with pytest.raises(UserError, match=r"got the edit .*UNIT \(scale FACTOR"):
        Edit.parse(text)


@pytest.mark.parametrize("name", ["unit", "replace_by", "where", "unless"])
def test_unit_that_the_layer_lacks(name: str) -> None:
    change = {"unit": 1, **({} if name == "replace_by" else {"scale": 0}), name: UNITS}
    with pytest.raises(
        UserError, match=f"got {name}=9 in the edit .*, expected a unit from 0 to 8"
    ):
        edited(filled("mxd"), Edit(**change))


@pytest.mark.parametrize("scale", [1e300, -1e40])
def test_factor_that_the_weights_do_not_hold(scale: float) -> None:
    layer = filled("mxd").float()
    with pytest.raises(UserError, match=r"torch.float32 does not hold, expected a smaller factor"):
        edited(layer, Edit(1, scale=scale))


def test_layer_without_units_and_no_edits() -> None:
    with pytest.raises(UserError, match="got a dense_mlp layer, which has no units to edit"):
        edited(filled("dense-mlp"), Edit(1, scale=0))
    with pytest.raises(UserError, match="got no edits"):
        edited(filled("mxd"), [])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("21 scale 0", "got edits that are no list"),
        ([{"unit": 1, "scale": 0, "where": 2}] * (MAX_EDITS + 1), "got edits that are no list"),
        (["1 scale 0"], "among edits, expected an object of"),
        ([{"scale": 0, "where": 2}], "among edits, expected an object of"),
        ([{"unit": 1, "scale": 0, "where": 2, "more": 1}], "among edits, expected an object of"),
        ([{"unit": True, "scale": 0, "where": 2}], "got unit=True among edits"),
        ([{"unit": 1, "scale": "0", "where": 2}], "got scale='0' among edits"),
        ([{"unit": 1, "remove": 1, "where": 2}], "got remove=1 among edits"),
        ([{"unit": 1, "scale": 0, "where": 2.0}], "got where=2.0 among edits"),
        ([{"unit": 1, "scale": 0}], "got '1 scale 0' among a configuration's edits"),
        ([{"unit": 1, "scale": 0, "where": UNITS}], "got where=9 in the edit"),
        ([{"unit": 1, "scale": float("inf"), "where": 2}], "expected a finite number"),
    ],
)
def test_config_json_with_bad_edits(value: Any, message: str, tmp_path: Path) -> None:
    filled("mxd").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "edits": value}), encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        mxd.layers.load(tmp_path)
    assert str(path) in str(caught.value)


def test_history_that_is_no_list_of_texts(tmp_path: Path) -> None:
    filled("mxd").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "edit_history": [1]}), encoding="utf-8")
    with pytest.raises(UserError, match=r"has edit_history \[1\], expected a list of texts"):
        mxd.layers.load(tmp_path)
