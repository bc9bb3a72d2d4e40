"""The `mxd` command: its verbs, its exit codes, and what a user sees of an error."""

import errno
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from mxd._version import __version__
from mxd.cli._processes import is_first, only_one
from mxd.cli._screen import _one_line
from mxd.cli.demo import demo
from mxd.cli.doctor import doctor
from mxd.cli.edit import edit_layer
from mxd.cli.eval import evaluate_run
from mxd.cli.fit import fit_layers
from mxd.cli.harvest import harvest_activations
from mxd.cli.plan import plan_training
from mxd.cli.probe import probe_run
from mxd.cli.report import report
from mxd.cli.steer import steer_run
from mxd.cli.sweep import sweep
from mxd.cli.top import top
from mxd.errors import ToldError, UserError
from mxd.host import BaseModelMismatch

SUCCESS, INTERNAL_ERROR, USER_ERROR = 0, 1, 2
_DISK_ERRORS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EEXIST,
    errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.EFBIG,
    errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip
"""What is wrong with a user's disk and not with mxd."""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="mxd")
@click.pass_context
def mxd(context: click.Context) -> None:
    """Take a pretrained language model apart, layer by layer, into sparse experts."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
    elif context.invoked_subcommand != fit_layers.name:
        only_one(context.invoked_subcommand)


mxd.add_command(demo)
mxd.add_command(fit_layers)
mxd.add_command(harvest_activations)
mxd.add_command(plan_training)
mxd.add_command(probe_run)
mxd.add_command(evaluate_run)
mxd.add_command(report)
mxd.add_command(edit_layer)
mxd.add_command(steer_run)
mxd.add_command(sweep)
mxd.add_command(top)
mxd.add_command(doctor)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 success, 2 a user's error (one sentence, no traceback), 1 a defect of mxd; 130 after Ctrl-C
    and 143 after SIGTERM.
    """
    _quieten()
    try:
        with _warnings_in_one_line():
            mxd.main(
                args=None if arguments is None else list(arguments),
                prog_name="mxd",
                standalone_mode=False,
            )
    except (click.exceptions.Abort, KeyboardInterrupt) as interruption:
        # click makes an Abort without a word of every KeyboardInterrupt.
        cause = interruption.__cause__ if not str(interruption) else None
        told = str(cause or interruption) or "nothing is kept"
        if is_first():  # of several processes all are interrupted together
            _complain(f"interrupted; {told}")
        return 128 + getattr(cause or interruption, "signal_number", signal.SIGINT)
    except click.UsageError as error:
        verb = "mxd" if error.ctx is None else error.ctx.command_path
        _complain(f"{error.format_message().rstrip('.')}; see `{verb} --help`")
        return USER_ERROR
    except (click.ClickException, UserError) as error:
        if not isinstance(error, ToldError):
            _complain(str(error) if is_first() else f"process {os.environ['RANK']}: {error}")
        return USER_ERROR
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            _complain(f"{error.filename or 'a file'}: {error.strerror}; mend this and try again")
            return USER_ERROR
        return _defect()
    except Exception:
        return _defect()
    return SUCCESS


def main() -> None:
    """Entry point of the `mxd` command."""
    sys.exit(run())


def _defect() -> int:
    traceback.print_exc()
    _complain("this is a defect of mxd, not of your input; please report it with the lines above")
    return INTERNAL_ERROR


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show the library's own warnings as messages; those of other libraries are for developers."""

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        if issubclass(category, BaseModelMismatch):
            _complain(str(message))

    with warnings.catch_warnings():
        warnings.filterwarnings("default", category=BaseModelMismatch)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _complain(message: str) -> None:
    click.echo(f"mxd: {_one_line(' '.join(message.split()))}", err=True)


def _quieten() -> None:
    """Log messages in one line each; no progress bars of other libraries."""
    import datasets
    import transformers

    logging.basicConfig(level=logging.WARNING, format="mxd: %(message)s", stream=sys.stderr)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
