"""How an error is told: ``error[code]: what``, then place and next command, and an exit code (docs/cli.md)."""

from pathlib import Path
from typing import NamedTuple

import click

from steplog.cli.output import echo, styled
from steplog.errors import SteplogError

FAILED, USAGE, INTERRUPTED = 1, 2, 130
_OURS = str(Path(__file__).parents[1])
_LOADING = "steplog/loading.py"  # below its frames is user code


class UserCodeFailed(SteplogError):
    """A file raised when it was loaded, in another process."""

    code = "user_code"
    exit_code = USAGE


class LoadError(NamedTuple):
    """An error that loading the code has met, in words; all but ``code`` and ``text`` may be empty."""

    code: str
    text: str
    place: str  # FILE:LINE
    source: str  # that line
    frames: str  # the traceback from the user's first frame on


def report(error: Exception, *, is_debug: bool) -> int:
    """Print an error on stderr; returns the exit code."""
    if is_debug:
        import traceback

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


def describe_load_error(error: BaseException) -> LoadError:
    """Put in words what loading the code has raised; ``code`` is ``internal`` where no file was being loaded."""
    import traceback

    is_ours = isinstance(error, SteplogError)
    lines = str(error).splitlines() if is_ours else traceback.format_exception_only(error)
    what = "\n".join(lines) if is_ours else "".join(lines).strip().splitlines()[-1]
    frames = traceback.extract_tb(error.__traceback__)
    loading = [number for number, frame in enumerate(frames) if frame.filename.endswith(_LOADING)]
    below = frames[loading[-1] + 1 :] if loading else []
    below = [frame for frame in below if not frame.filename.startswith("<frozen ")]
    users = [frame for frame in below if not frame.filename.startswith(_OURS)] or below
    place, source = "", ""
    if isinstance(error, SyntaxError):
        place, source = f"{error.filename}:{error.lineno}", (error.text or "").rstrip()
    elif users:
        place, source = f"{users[-1].filename}:{users[-1].lineno}", users[-1].line or ""
    code = error.code if isinstance(error, SteplogError) else "user_code" if loading else "internal"
    return LoadError(code, what, place, source, "".join(traceback.format_list(users)).rstrip())


def _report_foreign(error: Exception, *, is_debug: bool) -> int:
    """Tell an error that user code raised when it was loaded, from the user's frame on; or one of steplog's own."""
    told = describe_load_error(error)
    if told.code == "internal":
        _print("internal", f"{told.text}; this is a fault of steplog, --debug shows where it comes from")
        return FAILED
    _print("user_code", f"{told.place or 'it cannot be loaded'}: {told.text}")
    if told.frames and not is_debug:
        echo(told.frames, err=True)
    return USAGE


def _print(code: str, message: str) -> None:
    echo(f"{styled(f'error[{code}]', fg='red', bold=True)}: {message}", err=True)
