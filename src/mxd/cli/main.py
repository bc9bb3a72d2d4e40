"""The `mxd` command: its verbs, its exit codes, and what a user sees of an error."""

import logging
import sys
import traceback
from collections.abc import Sequence

import click

from mxd._version import __version__
from mxd.cli.demo import demo
from mxd.cli.eval import evaluate_run
from mxd.cli.fit import fit_layers
from mxd.errors import UserError

SUCCESS, INTERNAL_ERROR, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mxd")
def mxd() -> None:
    """Take a pretrained language model apart, layer by layer, into sparse experts."""


mxd.add_command(demo)
mxd.add_command(fit_layers)
mxd.add_command(evaluate_run)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 success, 2 a user's error (one sentence, no traceback), 130 interrupted, 1 a defect of mxd.
    """
    _quieten()
    try:
        mxd.main(
            args=None if arguments is None else list(arguments),
            prog_name="mxd",
            standalone_mode=False,
        )
    except (click.exceptions.Abort, KeyboardInterrupt):
        _complain("interrupted; layers trained so far are in the output folder, if it was begun")
        return INTERRUPTED
    except click.ClickException as error:
        _complain(error.format_message())
        return USER_ERROR
    except UserError as error:
        _complain(str(error))
        return USER_ERROR
    except Exception:
        traceback.print_exc()
        _complain(
            "this is a defect of mxd, not of your input; please report it with the lines above"
        )
        return INTERNAL_ERROR
    return SUCCESS


def main() -> None:
    """Entry point of the `mxd` command."""
    sys.exit(run())


def _complain(message: str) -> None:
    click.echo(f"mxd: {' '.join(message.split())}", err=True)


def _quieten() -> None:
    """Warnings in one line each; no progress bars of other libraries."""
    import datasets
    import transformers

    logging.basicConfig(level=logging.WARNING, format="mxd: %(message)s", stream=sys.stderr)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    logging.getLogger("mxd").setLevel(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
