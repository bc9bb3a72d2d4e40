from mxd.report import COLUMNS, Row, table_rows
from mxd.report.table import references


def _cell(row: Row, key: str) -> str:
    return row.cells[[column.key for column in COLUMNS].index(key)]


def test_table_rows_sorts_by_architecture_and_k_with_controls_last(evaluation):
    rows = table_rows(evaluation)
    assert [(_cell(row, "layer"), _cell(row, "k")) for row in rows] == [
        ("MxD", "4"),
        ("MxD", "8"),
        ("skip transcoder", "4"),
        ("skip transcoder", "8"),
        ("transcoder", "4"),
        ("transcoder", "8"),
        ("TopK autoencoder", "4"),
        ("TopK autoencoder", "8"),
        ("MLP + transcoder", "8"),
        ("dense MLP", "–"),
    ]
    assert [row.is_control for row in rows] == [False] * 8 + [True] * 2


def test_table_rows_show_figures_as_people_read_them(evaluation):
    mxd = table_rows(evaluation)[1]
    assert mxd.cells == (
        "MxD",
        "8",
        "5\u202f372",
        "2.37 M",
        "302 k",
        "0.229",
        "0.940",
        "94.1 %",
        "+0.0300 ± 0.0020",
        "93.0 %",
        "7.9",
        "31.0 %",
        "25.0 %",
    )


def test_table_rows_show_what_has_no_meaning_as_a_dash(make_layer, make_evaluation):
    layer = make_layer(nmse=None, delta_cross_entropy=float("nan"), l0=float("inf"), width=True)
    (row,) = table_rows(make_evaluation(layer))
    for key in ("nmse", "delta_cross_entropy", "l0", "static_nmse", "width"):
        assert _cell(row, key) == "–"
    assert table_rows(make_evaluation()) == []
    assert set(table_rows({"layers": [{}]})[0].cells[1:]) == {"–"}


def test_table_rows_show_small_and_negative_figures(make_layer, make_evaluation):
    layer = make_layer(
        nmse=0.00321, delta_cross_entropy=-0.0012, delta_cross_entropy_se=None, dead_fraction=0.0004
    )
    (row,) = table_rows(make_evaluation(layer))
    assert _cell(row, "nmse") == "0.0032"
    assert _cell(row, "delta_cross_entropy") == "−0.0012"
    assert _cell(row, "dead_fraction") == "0.04 %"


def test_table_rows_name_seeds_and_learning_rates_only_where_they_differ(
    make_layer, make_evaluation
):
    layers = [make_layer(seed=seed) for seed in (2, 1)]
    assert [r.cells[0] for r in table_rows(make_evaluation(*layers))] == [
        "transcoder, seed 1",
        "transcoder, seed 2",
    ]
    grid = make_layer(name="transcoder-k8-w6144-s42-lr0.001")
    assert table_rows(make_evaluation(grid))[0].cells[0] == "transcoder, lr 0.001"


def test_table_rows_keep_the_order_of_sites(make_layer, make_evaluation):
    layers = [make_layer(site=site) for site in ("h.9", "h.10", "h.9")]
    assert [row.site for row in table_rows(make_evaluation(*layers))] == ["h.9", "h.9", "h.10"]


def test_references_are_given_for_each_site(make_layer, make_evaluation):
    one = make_evaluation(make_layer())
    assert references(one) == [
        ("base model", "3.2070"),
        ("output set to zero", "3.8100"),
        ("output set to its mean", "3.6200"),
    ]
    two = make_evaluation(make_layer(site="a"), make_layer(site="b"))
    assert [name for name, _ in references(two)][1::2] == [
        "output set to zero at a",
        "output set to zero at b",
        "output set to zero at all of them",
    ]
