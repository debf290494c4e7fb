"""``steplog dead``: what could not be read, and was put aside until somebody retries or drops it."""

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

from steplog.cli.commands import Commands
from steplog.cli.output import clock, counted, echo, is_terminal, print_json, table
from steplog.dead.letters import DeadLetters, Entry, Letter
from steplog.dead.opening import open_dead
from steplog.errors import NotFound

SHOWN_CHARACTERS = 60  # of a reason, in a table
_VERBS = {
    "list": ("steplog.cli.dead", "List what was put aside, and why."),
    "show": ("steplog.cli.dead", "Show a record that was put aside, with its content."),
    "retry": ("steplog.cli.dead", "Have records read again, in their order."),
    "drop": ("steplog.cli.dead", "Forget records."),
}
_LOG = click.option(
    "--log", envvar="STEPLOG_LOG",
    help="The log, sqlite:PATH or kafka://HOST:PORT/PREFIX. Default: that of dev or start in this directory.",
)  # fmt: skip
_CONNECTOR = click.option("--connector", metavar="NAME", help="Of this connector alone.")
_ALL = click.option("--all", "are_all", is_flag=True, help="Every record that dead list shows.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(cls=Commands, table=_VERBS, short_help=_VERBS["list"][1])
def dead() -> None:
    """See what could not be read and was put aside, and have it read again, or forget it.

    \b
    Examples:
      steplog dead list
      steplog dead retry orders:payments/3/1812
    """


@click.command("list")
@_CONNECTOR
@_LOG
@_JSON
def list_(connector: str | None, log: str | None, as_json: bool) -> None:
    """List what was put aside: records that are no events, and those that wait behind one of their key.

    \b
    Examples:
      steplog dead list
      steplog dead list --connector orders --json
    """
    with _opened(log) as letters:
        entries = _of(connector, letters.entries())
    if as_json:
        print_json({"letters": [_shown(entry) for entry in entries]})
    elif entries:
        rows = [(clock(_at(entry.parked_ms)), entry.id, _state(entry), _cut(entry.reason)) for entry in entries]
        echo(table([("since", "id", "state", "reason"), *rows]))
    else:
        echo("nothing here, as it should be", err=True)


@click.command()
@click.argument("id_", metavar="ID")
@_LOG
@_JSON
def show(id_: str, log: str | None, as_json: bool) -> None:
    """Show a record that was put aside: where it stands, why it is here, and its key, value and headers.

    \b
    Examples:
      steplog dead show orders:payments/3/1812
      steplog dead show payments/3/1812 --json
    """
    with _opened(log) as letters:
        (entry,) = _named(letters.entries(), [id_])
        letter = letters.find(entry.id)
    if letter is None:
        raise _missing(id_)
    fields = _shown(letter.entry) | _content(letter)
    if as_json:
        print_json({"letter": fields})
        return
    for name, value in fields.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {text}" for key, text in value.items())
        if value not in (None, ""):
            echo(f"{name.ljust(10)} {value}")


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_ALL
@_CONNECTOR
@_LOG
@_JSON
def retry(ids: tuple[str, ...], are_all: bool, connector: str | None, log: str | None, as_json: bool) -> None:
    """Have records read again by who put them aside, when it runs; what waits behind them follows in its order.

    A record that still is no event stays, with its reason.

    \b
    Examples:
      steplog dead retry orders:payments/3/1812
      steplog dead retry --all --connector orders
    """
    _change(ids, are_all, connector, log, as_json, "retried", "to be read again", lambda letters: letters.retry)


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_ALL
@_CONNECTOR
@_LOG
@click.option("--yes", is_flag=True, help="With --all, do not ask.")
@_JSON
def drop(
    ids: tuple[str, ...], are_all: bool, connector: str | None, log: str | None, yes: bool, as_json: bool
) -> None:  # fmt: skip
    """Forget records. What waits behind one is read, as soon as who put it aside runs.

    \b
    Examples:
      steplog dead drop orders:payments/3/1812
      steplog dead drop --all --connector orders --yes
    """
    if are_all and not yes:
        if not is_terminal(err=True):
            raise click.UsageError("--all forgets everything that is listed; say that with --yes")
        click.confirm("forget every record that steplog dead list shows?", abort=True, err=True)
    _change(ids, are_all, connector, log, as_json, "dropped", "forgotten", lambda letters: letters.drop)


def _change(
    ids: Sequence[str], are_all: bool, connector: str | None, log: str | None, as_json: bool, field: str, done: str,
    verb: Callable[[DeadLetters], Callable[[Sequence[str]], None]],
) -> None:  # fmt: skip
    if bool(ids) == are_all:
        raise click.UsageError("name records by their ids, or say --all")
    with _opened(log) as letters:
        entries = _of(connector, letters.entries())
        chosen = [entry.id for entry in (entries if are_all else _named(entries, ids))]
        if chosen:
            verb(letters)(chosen)
    if as_json:
        print_json({field: chosen})
    else:
        echo(f"{counted(len(chosen), 'record')} {'is' if len(chosen) == 1 else 'are'} {done}")


@contextmanager
def _opened(log: str | None) -> Iterator[DeadLetters]:
    from steplog.cli.source import connected, local_log  # the history comes with it

    if log is None:
        log = local_log()
        if log is None:
            raise NotFound("there is no log in this directory; name it with --log")
    letters = open_dead(connected(log))
    try:
        yield letters
    finally:
        letters.close()


def _of(connector: str | None, entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if connector in (None, entry.connector)]


def _named(entries: Sequence[Entry], ids: Sequence[str]) -> list[Entry]:
    """Letters by their ids, in full or without connector and incarnation."""
    found = []
    for id_ in ids:
        matching = [entry for entry in entries if id_ in _names(entry)]
        if not matching:
            raise _missing(id_)
        if len(matching) > 1:
            ids_ = ", ".join(entry.id for entry in matching)
            raise NotFound(f"more than one record is meant by {id_!r}; give more of its id: {ids_}")
        found += matching
    return found


def _names(entry: Entry) -> set[str]:
    place = f"{entry.topic}/{entry.partition}/{entry.offset}"
    return {entry.id, entry.id.partition("@")[0], place, entry.id.removeprefix(f"{entry.connector}:")}


def _missing(id_: str) -> NotFound:
    return NotFound(f"there is no record {id_!r}; steplog dead list shows those there are")


def _shown(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id, "connector": entry.connector, "topic": entry.topic, "partition": entry.partition,
        "offset": entry.offset, "key": _text(entry.key), "reason": entry.reason, "parked_at": _at(entry.parked_ms),
        "state": entry.state, "behind": entry.behind,
    }  # fmt: skip


def _content(letter: Letter) -> dict[str, Any]:
    return {
        "timestamp": None if letter.timestamp_ms is None else _at(letter.timestamp_ms),
        "headers": {name: _text(value) for name, value in letter.headers}, "value": _text(letter.value),
    }  # fmt: skip


def _text(value: bytes | None) -> Any:
    """Bytes as text where they are some, else as ``{"base64": …}``."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode()}


def _state(entry: Entry) -> str:
    return "waits" if entry.behind is not None and entry.state == "parked" else entry.state


def _cut(reason: str) -> str:
    return reason if len(reason) <= SHOWN_CHARACTERS or not is_terminal() else f"{reason[:SHOWN_CHARACTERS]}…"


def _at(ms: int) -> str:
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
