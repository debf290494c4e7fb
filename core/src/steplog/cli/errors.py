"""How an error is told: ``error[code]: what``, then place and next command, and an exit code (docs/cli.md)."""

import click

from steplog.cli.output import echo, styled
from steplog.errors import SteplogError

FAILED, USAGE, INTERRUPTED = 1, 2, 130
_LOADING = "steplog/loading.py"  # below its frames is user code


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


def _report_foreign(error: Exception, *, is_debug: bool) -> int:
    """Tell an error that user code raised when it was loaded, from the user's frame on; or one of steplog's own."""
    import traceback

    what = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    frames = traceback.extract_tb(error.__traceback__)
    loading = [number for number, frame in enumerate(frames) if frame.filename.endswith(_LOADING)]
    if not loading:
        _print("internal", f"{what}; this is a fault of steplog, --debug shows where it comes from")
        return FAILED
    users = [frame for frame in frames[loading[-1] + 1 :] if not frame.filename.startswith("<frozen ")]
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
    else:
        place = f"{users[-1].filename}:{users[-1].lineno}" if users else "it cannot be loaded"
    _print("user_code", f"{place}: {what}")
    if users and not is_debug:
        echo("".join(traceback.format_list(users)).rstrip(), err=True)
    return USAGE


def _print(code: str, message: str) -> None:
    echo(f"{styled(f'error[{code}]', fg='red', bold=True)}: {message}", err=True)
