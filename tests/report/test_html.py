import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mxd.errors import UserError
from mxd.report import COLUMNS, draw_frontier, table_rows, write_report

HOSTILE = "<script>alert(1)</script>\"onerror='alert(2)' &amp;"
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Tags with their attributes, the text, and a check that everything opened is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def run() -> dict[str, Any]:
    return {
        "base_model": {"name": "small-gpt2", "revision": "3f1c2ab"},
        "command": ["mxd", "fit", "small-gpt2", "--out", "my run"],
        "recipe": {
            "text": {"source": "stories.txt", "eval_source": None},
            "students": [{"architecture": "mxd", "k": 8}],
            "optimizer": {"loss": "normalized_mse", "lr": {"mxd": 0.001}},
        },
        "seeds": {"run": 42, "students": [42]},
        "versions": {"mxd": "0.1.0", "torch": "2.8.0"},
        "data": {"fingerprint": "9c1185a5", "tokens_trained": 2_000_000},
    }


def _unit(text: str = "port") -> dict[str, Any]:
    example = {"before": f"{text} b\n", "token": text, "after": text, "value": 5.21, "level": 0.75}
    return {
        "unit": 1184,
        "frequency": 0.0042,
        "largest": 5.21,
        "selectivity": 3.941,
        "examples": [example] * 5,
    }


def _steered(text: str = "hello") -> dict[str, Any]:
    return {"prompt": text, "unit": 7, "strength": 100.0, "plain": text, "steered": f"{text} sea"}


def test_report_contains_every_figure_and_the_record(run, evaluation, tmp_path):
    pictures = draw_frontier(evaluation, tmp_path / "frontier")
    path = write_report(
        tmp_path / "new" / "report.html",
        title="An MLP taken apart",
        run=run,
        evaluation=evaluation,
        pictures=pictures,
        units=[_unit()],
        units_of="mxd-k8-w5372-s42",
        steered=_steered(),
        notes=["The curves were still falling."],
        commands={"frontier": "mxd eval run", "units": "mxd top run", "steered": "mxd steer run"},
    )
    page = Page(path)
    for row in table_rows(evaluation):
        for cell in row.cells:
            assert cell in page.text
    wanted = """An MLP taken apart|small-gpt2|3f1c2ab|stories.txt|9c1185a5|2.8.0|3.2070|3.8100|
        3.6200|mxd fit small-gpt2 --out 'my run'|mxd eval run|mxd top run|mxd steer run|2 M tokens|
        412 documents|10 layers|normalized_mse|0.001|The curves were still falling.|Unit 1184|5.21|
        0.42 %|3.94|0.75|mxd-k8-w5372-s42|100.0|hello sea|Controls"""
    for text in wanted.split("|"):
        assert text.strip() in page.text
    assert [head.get("title") for head in page.of("th")][: len(COLUMNS)] == [
        column.meaning for column in COLUMNS
    ]
    assert len(page.of("mark")) == 5
    (image,) = page.of("img")
    assert image["alt"]
    assert str(image["src"]).startswith("data:image/png;base64,iVBOR")


def test_report_is_one_file_that_asks_for_nothing(run, evaluation, tmp_path):
    pictures = draw_frontier(evaluation, tmp_path / "frontier")
    page = Page(
        write_report(
            tmp_path / "r.html", title="t", run=run, evaluation=evaluation, pictures=pictures
        )
    )
    policy = [m["content"] for m in page.of("meta") if "http-equiv" in m]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not re.search(r"https?://|@import|url\(", page.source)
    assert not page.of("script")
    assert not page.of("link")
    for _, attributes in page.tags:
        assert "href" not in attributes
        assert str(attributes.get("src", "data:")).startswith("data:")


def test_report_escapes_everything_that_others_wrote(
    run, make_layer, make_evaluation, evaluation, tmp_path
):
    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            return {f"{key}": spoil(item) for key, item in value.items()} | {HOSTILE: HOSTILE}
        if isinstance(value, list):
            return [spoil(item) for item in value]
        return HOSTILE if isinstance(value, str) else value

    (picture, _) = draw_frontier(evaluation, tmp_path / "a")
    odd = picture.rename(tmp_path / "\"onerror='x' <script>.png")
    layers = [make_layer(site=HOSTILE, name=HOSTILE), make_layer(HOSTILE, site="b" + HOSTILE)]
    path = write_report(
        tmp_path / "r.html",
        title=HOSTILE,
        run=spoil(run),
        evaluation=make_evaluation(*layers),
        pictures=[odd],
        units=[_unit(HOSTILE)],
        units_of=HOSTILE,
        steered=_steered(HOSTILE),
        notes=[HOSTILE],
        commands=dict.fromkeys((odd.stem, "table", "units", "steered"), HOSTILE),
    )
    page = Page(path)
    assert not page.of("script")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count(HOSTILE) > 20
    assert page.of("img")[0]["alt"] == f"Picture: {odd.stem}"


@pytest.mark.parametrize("run", [{}, {"base_model": None, "recipe": None, "data": {}}])
def test_report_does_without_what_is_optional(run, make_layer, make_evaluation, tmp_path):
    layer = make_layer("mxd", nmse=None, delta_cross_entropy=None, loss_recovered=None)
    bare = make_evaluation(layer, base_cross_entropy=None, documents=None)
    del bare["sites"], bare["together"]
    page = Page(write_report(tmp_path / "r.html", title="t", run=run, evaluation=bare, pictures=[]))
    assert "base model –" in page.text
    assert "1 layer learned" in page.text
    for absent in ("Units worth seeing", "Steered text", "Pictures", "Configuration", "Controls"):
        assert absent not in page.text
    empty = tmp_path / "empty.html"
    Page(write_report(empty, title="t", run=run, evaluation={}, pictures=[]))


def test_report_shows_a_unit_without_examples(run, evaluation, tmp_path):
    unit = {"unit": 3, "frequency": 0.0, "largest": 0.0, "selectivity": None, "examples": []}
    page = Page(
        write_report(
            tmp_path / "r.html",
            title="t",
            run=run,
            evaluation=evaluation,
            pictures=[],
            units=[unit],
        )
    )
    assert "Unit 3" in page.text
    assert "selectivity – nats" in page.text


def test_report_groups_rows_by_site_in_the_order_of_the_evaluation(
    run, make_layer, make_evaluation, tmp_path
):
    sites = ("h.9.mlp", "h.10.mlp")
    layers = [make_layer(kind, site=s) for s in sites for kind in ("mlp_transcoder", "mxd")]
    document = make_evaluation(*layers)
    page = Page(
        write_report(tmp_path / "r.html", title="t", run=run, evaluation=document, pictures=[])
    )
    table = page.text[page.text.index("top freq.") :]
    assert table.index("h.9.mlp") < table.index("h.10.mlp")
    assert page.text.count("Controls") == 2


def test_report_warns_of_a_gate_that_explains_nothing(run, make_layer, make_evaluation, tmp_path):
    static = make_layer("mxd", name="idle", nmse=0.2, static_nmse=0.2)
    busy = make_layer("mxd", name="busy", nmse=0.2, static_nmse=0.9)
    document = make_evaluation(static, busy, static_reference="evaluation")
    page = Page(
        write_report(tmp_path / "r.html", title="t", run=run, evaluation=document, pictures=[])
    )
    assert "The gate of idle explains next to nothing" in page.text
    assert "The gate of busy" not in page.text
    assert "means of the evaluation text" in page.text


def test_report_draws_control_characters_and_survives_broken_unicode(run, evaluation, tmp_path):
    page = Page(
        write_report(
            tmp_path / "r.html",
            title="t",
            run=run,
            evaluation=evaluation,
            pictures=[],
            units=[_unit("a\x00\ud800\t\x9b")],
        )
    )
    assert "\x00" not in page.source
    assert "a␀?⇥\N{REPLACEMENT CHARACTER} b↵" in page.text


def test_report_names_a_picture_that_is_none(run, evaluation, tmp_path):
    text = tmp_path / "x.png"
    text.write_text("<svg onload=alert(1)>")
    arguments = {"title": "t", "run": run, "evaluation": evaluation}
    with pytest.raises(UserError, match=r"x\.png is no PNG"):
        write_report(tmp_path / "r.html", pictures=[text], **arguments)
    with pytest.raises(UserError, match="cannot read picture"):
        write_report(tmp_path / "r.html", pictures=[tmp_path / "no.png"], **arguments)
    with pytest.raises(UserError, match="cannot write report"):
        write_report(text / "r.html", pictures=[], **arguments)
