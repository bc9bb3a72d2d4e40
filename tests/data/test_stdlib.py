import pytest

from mxd.data import TextOptions, open_documents, python_stdlib_documents, stdlib
from mxd.errors import UserError


def test_stdlib_gives_code_without_tests_and_packages():
    documents = list(python_stdlib_documents())
    keys = [document.key for document in documents]
    assert {"json/decoder.py", "pydoc_data/topics.py", "argparse.py"} <= set(keys)
    assert len(keys) == len(set(keys))
    folders = {part for key in keys for part in key.split("/")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "dist-packages"}
    assert sum(len(document.text) for document in documents) > 5_000_000


def test_stdlib_is_a_named_source_in_a_fixed_order():
    named = open_documents("python-stdlib", TextOptions(shuffle_documents=0))
    assert [d.key for d in named] == [d.key for d in python_stdlib_documents()]


def test_stdlib_skips_files_that_are_not_utf8(tmp_path, monkeypatch):
    (tmp_path / "good.py").write_text("x = 1\n")
    (tmp_path / "bad.py").write_bytes(b"# \xe9\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "no.py").write_text("y = 1\n")
    monkeypatch.setattr(stdlib.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert [document.key for document in python_stdlib_documents()] == ["good.py"]


def test_stdlib_without_sources_is_a_users_error(tmp_path, monkeypatch):
    archive = tmp_path / "python.zip"
    monkeypatch.setattr(stdlib.sysconfig, "get_paths", lambda: {"stdlib": str(archive)})
    with pytest.raises(UserError, match="got no sources of Python's standard library"):
        python_stdlib_documents()
