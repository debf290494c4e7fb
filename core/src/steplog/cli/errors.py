"""How an error is told: ``error[code]: what``, then place and next command, and an exit code (docs/cli.md)."""

import traceback
from pathlib import Path

import click

from steplog.cli.output import echo, styled
from steplog.errors import Refused, SteplogError

FAILED, USAGE, INTERRUPTED = 1, 2, 130
_OURS = str(Path(__file__).parents[1])
_NOT_THE_USERS = (_OURS, str(Path(click.__file__).parent), "<frozen ")


class EventRefused(Refused):
    """The server takes none, or not all, of the events."""

    code = "event_refused"


def report(error: Exception, *, is_debug: bool) -> int:
    """Print an error on stderr; returns the exit code."""
    if is_debug:
        traceback.print_exception(error)
    match error:
        case click.Abort():
            return INTERRUPTED
        case SteplogError():
            _print(error.code, str(error))
            return error.exit_code
        case click.UsageError():
            _print("usage", error.format_message())
            if error.ctx is not None:
                echo(f"  {error.ctx.command_path} --help tells more", err=True)
            return USAGE
        case click.ClickException():
            _print("usage", error.format_message())
            return USAGE
    return _report_foreign(error, is_debug=is_debug)


def _report_foreign(error: Exception, *, is_debug: bool) -> int:
    """Tell an error that user code raised, from the user's frame on; or one that is a fault of steplog."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_NOT_THE_USERS)
    ]
    what = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    place = _place(error, frames)
    if place is None:
        _print("internal", f"{what}; this is a fault of steplog, --debug shows where it comes from")
        return FAILED
    _print("user_code", f"{place}: {what}")
    if frames and not is_debug:
        echo("".join(traceback.format_list(frames)).rstrip(), err=True)
    return USAGE


def _place(error: Exception, frames: list[traceback.FrameSummary]) -> str | None:
    """Where in the user's code it was raised; None where that is nowhere."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def _print(code: str, message: str) -> None:
    echo(f"{styled(f'error[{code}]', fg='red', bold=True)}: {message}", err=True)
