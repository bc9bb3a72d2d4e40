import json
import shutil

import pytest
from tests.report.synthetic import Synthetic

SMALL = {"architectures": ("mxd",), "ks": (16,), "seeds": (1,)}


@pytest.fixture
def evaluated(tmp_path):
    return Synthetic(**SMALL).write(tmp_path / "run", only=["doctor"])


def test_report_of_a_real_run_goes_into_its_folder(cli, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    result = cli.succeeds("report", "run", "--title", "An MLP", "--json", "files.json")
    assert "run/report/report.html" in result.out
    assert "An MLP" in (tmp_path / "run" / "report" / "report.html").read_text()
    written = json.loads((tmp_path / "files.json").read_text())
    assert written["kind"] == "report"
    assert written["report"] == "run/report/report.html"
    assert any(path.endswith("training.svg") for path in written["figures"])
    for path in (*written["figures"], *written["tables"]):
        assert (tmp_path / path).is_file()


def test_report_of_several_runs_has_a_folder_of_its_own(cli, evaluated, tmp_path):
    Synthetic(**SMALL, model="pythia").write(tmp_path / "b", only=["doctor"])
    cli.succeeds("report", "run", "b")
    page = (tmp_path / "mxd-report" / "report.html").read_text()
    assert "What was measured of gpt2, pythia" in page
    assert not (evaluated / "report").exists()


def test_report_takes_its_flags_from_a_file(cli, evaluated, tmp_path):
    (tmp_path / "flags.yaml").write_text("title: From a file\nout: elsewhere\n")
    cli.succeeds("report", evaluated, "--config", "flags.yaml")
    assert "From a file" in (tmp_path / "elsewhere" / "report.html").read_text()


def test_report_refuses_bad_input(cli, evaluated, tmp_path):
    (tmp_path / "file").write_text("")
    cli.refuses(["report"], "RUNS")
    cli.refuses(["report", "nowhere"], "nowhere", "run.json")
    cli.refuses(["report", evaluated, "nowhere"], "nowhere", "run.json")
    cli.refuses(["report", evaluated, "--out", "file"], "--out file", "a folder")
    cli.refuses(["report", evaluated, "--json", "no/such/x.json"], "no/such")
