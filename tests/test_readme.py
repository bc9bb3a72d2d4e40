"""README's example runs as it stands, and what it names exists."""

import re
from pathlib import Path

import mxd

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert "def main(" in capsys.readouterr().out


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_public_names_exist():
    for name in mxd.__all__:
        assert hasattr(mxd, name), name
