import pytest
from tests.report.page import Page

from mxd.errors import UserError
from mxd.report import draw_frontier, write_page
from mxd.report.blocks import (
    Chapter,
    Column,
    Line,
    Listing,
    Picture,
    Prose,
    Samples,
    Section,
    Table,
    Terms,
    Units,
    Warnings,
)

HOSTILE = "<script>alert(1)</script>\"onerror='alert(2)' &amp; {{ 7 * 7 }}"
MARKS = "a\x00\ud800\t\x9b\u202eb\u2066\u200d\u2028"


def _table(text: str = "x", **changes) -> Table:
    columns = [Column("name", text, text), Column("note", text, text, words=True)]
    lines = [Line([text, "1"], text), Line(["y", "2"], text), Line(["z", "3"], "the rest")]
    return Table("t", text, columns, lines, [{"name": text}], text, **changes)


def _unit(text: str) -> dict:
    example = {"before": text, "token": text, "after": text, "value": 5.21, "level": 0.75}
    return {"unit": 1184, "frequency": 0.0042, "largest": 5.21, "examples": [example] * 5}


def _blocks(text: str) -> list:
    return [
        Prose([text]),
        Warnings([text], text),
        _table(text),
        _table(text, folded=True),
        Terms([(text, {text: [text, {text: [text, None, 3]}]})]),
        Terms([(text, text)], text),
        Listing(text, text),
        Units(text, [_unit(text), {"unit": 3}], text),
        Samples(text, text, [(text, [text, text])], text),
    ]


def _write(tmp_path, *chapters: Chapter, title: str = "t", command: str = "") -> Page:
    path = write_page(tmp_path / "r.html", title=title, chapters=chapters, command=command)
    return Page(path)


def test_page_shows_every_kind_of_block(tmp_path):
    section = Section("Part", _blocks("what it says"))
    page = _write(
        tmp_path, Chapter("", [section]), title="An MLP taken apart", command="mxd report"
    )
    assert page.text.count("what it says") >= 40
    for shown in ("An MLP taken apart", "Part", "Unit 1184", "5.21", "0.42 %", "tables/t.csv"):
        assert shown in page.text
    assert "mxd report" in page.text
    assert len(page.of("mark")) == 5
    assert page.text.count("the rest") == 2  # a group's name stands once in each table


def test_page_is_one_file_that_asks_for_nothing(evaluation, tmp_path):
    paths = draw_frontier(evaluation, tmp_path / "frontier")
    picture = Picture(paths[0], "alt text", "what is seen", "mxd eval run")
    sections = [Section(f"part {n}", [picture]) for n in range(4)]
    page = _write(tmp_path, Chapter("one", sections), Chapter("two", sections))
    policy = [m["content"] for m in page.of("meta") if "http-equiv" in m]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert "://" not in page.source
    assert not page.of("script")
    assert not page.of("link")
    anchors = {str(attributes["id"]) for _, attributes in page.tags if "id" in attributes}
    links = [str(attributes["href"]) for _, attributes in page.tags if "href" in attributes]
    assert len(links) == 10
    assert {link.removeprefix("#") for link in links} == anchors
    for image in page.of("img"):
        assert image["alt"] == "alt text"
        assert str(image["src"]).startswith("data:image/png;base64,iVBOR")
    assert page.text.count("figures/frontier.svg") == 8


def test_page_escapes_everything_that_others_wrote(evaluation, tmp_path):
    (picture, _) = draw_frontier(evaluation, tmp_path / "a")
    odd = picture.rename(tmp_path / "\"onerror='x' <script>.png")
    shown = Picture(odd, HOSTILE, HOSTILE, HOSTILE)
    chapter = Chapter(HOSTILE, [Section(HOSTILE, [*_blocks(HOSTILE), shown])])
    page = _write(tmp_path, chapter, chapter, title=HOSTILE, command=HOSTILE)
    assert not page.of("script")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count(HOSTILE) > 60
    assert "49" not in page.text
    assert page.of("img")[0]["alt"] == HOSTILE


def test_page_draws_control_characters_and_disarms_marks_of_direction(tmp_path):
    page = _write(tmp_path, Chapter("", [Section("s", _blocks(MARKS)[:-3])]))
    for hidden in "\x00\u202e\u2066\u2028\x9b":
        assert hidden not in page.source
    assert "a␀?⇥\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b" in page.text
    assert "\u200d" in page.text  # part of words in several scripts


def test_page_cuts_texts_of_any_length(tmp_path):
    page = _write(tmp_path, Chapter("", [Section("s", [Prose(["x" * 5_000_000])])]))
    assert len(page.source) < 100_000


def test_page_without_contents_for_few_sections(tmp_path):
    page = _write(tmp_path, Chapter("hidden", [Section("only", [Prose(["x"])])]))
    assert not page.of("nav")
    assert "hidden" not in page.text
    _write(tmp_path)


def test_page_names_a_picture_that_is_none(tmp_path):
    text = tmp_path / "x.png"
    text.write_text("<svg onload=alert(1)>")

    def chapter(path) -> Chapter:
        return Chapter("", [Section("s", [Picture(path, "a", "b")])])

    with pytest.raises(UserError, match=r"x\.png is no PNG"):
        _write(tmp_path, chapter(text))
    with pytest.raises(UserError, match="cannot read picture"):
        _write(tmp_path, chapter(tmp_path / "no.png"))
    with pytest.raises(UserError, match=r"r\.html cannot be written"):
        write_page(text / "r.html", title="t", chapters=[])
