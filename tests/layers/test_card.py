"""The model card says what was measured, and text from outside cannot break it."""

import re
from pathlib import Path

import pytest
import yaml
from tests.layers._examples import KINDS, described, fresh

from mxd.layers import Layer, Provenance

HOSTILE = [
    "a|b|c",
    "a\\|b",
    "line\nbreak",
    "carriage\r| x | y |\rreturn",
    "separator\u2028| x |\u2029",
    "```\nrm -rf /\n```",
    "`code` end",
    "<script>alert(1)</script>",
    "![picture](https://example.org/x.png)",
    '"}): evil(); ({"',
    "---\nlicense: mit\n---",
    "",
]


def card(layer: Layer, folder: Path) -> str:
    layer.save_pretrained(folder)
    return (folder / "README.md").read_text(encoding="utf-8")


def cells(row: str) -> int:
    """Columns of a row as GitHub's Markdown counts them: a backslash escapes what follows it."""
    return len(re.sub(r"\\.", "", row.strip()).strip("|").split("|"))


def header(text: str) -> dict[str, object]:
    _, block, _ = text.split("---\n", 2)
    loaded = yaml.safe_load(block)
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("kind", KINDS)
def test_card_shows_the_figures_that_were_measured(kind: str, tmp_path: Path) -> None:
    text = card(described(fresh(kind)), tmp_path)
    assert "0.125" in text
    assert "nmse" in text
    assert "0.0029" in text
    assert "12,345 tokens" in text
    assert "transformer.h.8.mlp" in text
    assert "480000000" in text
    assert header(text)["base_model"] == "openai-community/gpt2"
    assert header(text)["library_name"] == "mxd"


def test_card_without_figures_says_so(tmp_path: Path) -> None:
    text = card(fresh("mxd"), tmp_path)
    assert "Nothing yet" in text
    assert "base_model" not in header(text)


def test_card_leaves_out_figures_that_have_no_meaning(tmp_path: Path) -> None:
    layer = fresh("transcoder")
    layer.provenance.evaluation = {"nmse": 0.5, "static_nmse": None, "kl": "high", "l0": True}
    text = card(layer, tmp_path)
    assert "nmse" in text
    for absent in ("static_nmse", "high", "(l0)"):
        assert absent not in text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_card_stays_whole_whatever_the_names(text: str, tmp_path: Path) -> None:
    layer = fresh("mxd")
    layer.provenance = Provenance(
        base_model=text,
        site=text,
        student=text,
        training={text or "text": text, "nested": {"text": text}},
        evaluation={"nmse": 0.25, "tokens": 10, "text": text},
    )
    written = card(layer, tmp_path)
    assert set(header(written)) == {"library_name", "tags"}
    lines, body = written.split("\n"), written.split("---\n", 2)[2]
    assert not re.search("[\r\u2028\u2029]", written)
    assert [line for line in lines if line.startswith("#")][1:] == [
        "## Configuration", "## Training", "## Measured",
    ]  # fmt: skip
    assert len([line for line in lines if line.startswith("```")]) == 2
    assert all(cells(line) == 2 for line in lines if line.startswith("|"))
    assert "---" not in lines[lines.index("---", 1) + 1 :]
    shown = re.sub(r"```.*?```|`[^`\n]*`", "", body, flags=re.DOTALL)  # what is no code
    assert "<script" not in shown
    assert "![" not in shown
    code = body.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert code.count("\n") == 5
