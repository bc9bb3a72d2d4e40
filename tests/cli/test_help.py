import click
import pytest

from mxd._version import __version__
from mxd.cli.main import mxd

VERBS = {"demo", "fit", "eval", "probe", "steer", "sweep", "top", "doctor", "edit", "report"}
VERBS |= {"harvest", "plan"}
WITHOUT_A_DEFAULT = {"layers", "site", "text_name", "width", "revision", "json_file", "model"}
"""What is left out, rather than set to something, where the flag is not given."""
_OPTIONS = [
    (verb, param)
    for verb, command in mxd.commands.items()
    for param in command.params
    if isinstance(param, click.Option)
]


def test_every_verb_is_there():
    assert set(mxd.commands) == VERBS


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_shows_every_flag(cli, verb):
    result = cli.succeeds(verb, "--help")
    assert result.err == ""
    for of, option in _OPTIONS:
        if of == verb:
            assert option.opts[0] in result.out.split()
    assert cli.succeeds(verb, "-h").out == result.out


@pytest.mark.parametrize(
    ("verb", "option"), _OPTIONS, ids=[f"{verb} {option.opts[0]}" for verb, option in _OPTIONS]
)
def test_option_is_explained(verb, option):
    assert option.help
    assert option.help.rstrip().endswith((".", "]"))
    if option.is_flag or option.name in WITHOUT_A_DEFAULT | {"config"}:
        return
    shown = option.show_default and option.default is not None
    assert shown or "[default: " in option.help or option.help.endswith("[required]")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []], ids=["--help", "-h", "nothing"])
def test_help_lists_the_verbs(cli, arguments):
    result = cli.succeeds(*arguments)
    assert result.err == ""
    for verb in VERBS:
        assert f"\n  {verb} " in result.out


def test_version_is_the_package_s(cli):
    assert cli.succeeds("--version").out == f"mxd, version {__version__}\n"
