"""``steplog audit``: every accepted event, accounted for from the log alone."""

import re
from contextlib import closing
from datetime import UTC, datetime, timedelta

import click
import msgspec

from steplog.cli.output import Waiting, bar, counted, echo, print_json, styled
from steplog.cli.source import connected, local_log, shown_log
from steplog.errors import NotFound
from steplog.history.audit import AuditReport, audit_source
from steplog.history.audit import audit as audit_log
from steplog.history.source import open_source
from steplog.paths import is_kafka, log_path

_AGO = re.compile(r"([0-9]+)(s|m|h|d)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.command()
@click.option(
    "--log", envvar="STEPLOG_LOG",
    help="The log, sqlite:PATH or kafka://HOST:PORT/PREFIX. Default: that of dev or start in this directory.",
)  # fmt: skip
@click.option("--since", help="Events accepted from then on: a time with its zone, or how long ago, as 24h.")
@click.option("--until", help="Events accepted before then.")
@click.option("--deep", is_flag=True, help="Read the whole file, to find what a failing disk has damaged.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def audit(log: str | None, since: str | None, until: str | None, deep: bool, as_json: bool) -> int:
    """Account for every accepted event: what it started, and that each step is recorded once.

    Reads the log alone, also while an engine writes it. Ends with 1 where something does not add up.

    \b
    Examples:
      steplog audit
      steplog audit --log kafka://broker:9092/shop --since 24h --json
    """
    log = log or local_log()
    if log is None or not (is_kafka(log) or log_path(log).exists()):
        where = "in this directory" if log is None else shown_log(log)
        raise NotFound(f"there is no log {where}; name it with --log sqlite:PATH or --log kafka://HOST:PORT/PREFIX")
    if deep and is_kafka(log):
        raise click.UsageError("--deep reads a file; what Kafka stores, it checks itself")
    with Waiting() as waiting:
        report = _audited(log, _at_ms(since, "--since"), _at_ms(until, "--until"), waiting, is_deep=deep)
    if as_json:
        fields = msgspec.to_builtins(report)
        print_json({"ok": report.is_clean, "log": shown_log(log), **fields})
    else:
        echo(_drawn(report))
    return 0 if report.is_clean else 1


def _audited(
    log: str, since_ms: int | None, until_ms: int | None, waiting: Waiting, *, is_deep: bool
) -> AuditReport:  # fmt: skip
    what = "records" if is_kafka(log) else "turns"

    def show(read: int, all_: int) -> None:
        waiting.show(f"audit  {bar(read, all_)} {read:,} of {all_:,} {what}")

    if not is_kafka(log):
        return audit_log(log_path(log), since_ms, until_ms, is_deep=is_deep, on_progress=show)
    with closing(open_source(connected(log))) as source:
        return audit_source(source, since_ms, until_ms, on_progress=show)


def _drawn(report: AuditReport) -> str:
    runs = [f"{count} {state}" for count, state in ((report.failed, "failed"), (report.open, "open")) if count]
    skips = [f"{count} skipped ({reason})" for reason, count in report.skipped.items()]
    ended = ", ".join(
        [f"{counted(report.completed, 'run')} completed", *runs, *skips, f"{report.unaccounted} unaccounted"]
    )
    repeated = f"{report.repeated_steps} recorded again" if report.repeated_steps else "each recorded once"
    rows = [
        (f"accepted {counted(report.accepted, 'event')}", ended, not report.unaccounted),
        (f"planned  {counted(report.planned_steps, 'step')}", f"{counted(report.recorded_steps, 'result')}, {repeated}",
         not report.repeated_steps),
    ]  # fmt: skip
    if report.dead:
        rows.append((f"cannot be read: {report.dead}", "records that are damaged, or of another format", False))
    if report.missing:
        rows.append((f"missing  {counted(report.missing, 'commit')}", "lost when a backup was restored", False))
    if report.damaged is not None:
        told = f"{report.damaged} damaged rows or pages" if report.damaged else "every row and page as it was written"
        rows.append(("read     the file", told, not report.damaged))
    lines = [f"  {left.ljust(22)}→ {right.ljust(50)}  {_mark(holds)}" for left, right, holds in rows]
    lines += [f"    {finding.id}  {finding.problem}" for finding in report.findings]
    return "\n".join(lines)


def _mark(holds: bool) -> str:
    return styled("✓", fg="green") if holds else styled("✗", fg="red", bold=True)


def _at_ms(text: str | None, option: str) -> int | None:
    """Read a time, or how long ago it was."""
    if text is None:
        return None
    match = _AGO.fullmatch(text)
    if match is not None:
        moment = datetime.now(UTC) - timedelta(seconds=int(match[1]) * _UNIT_S[match[2]])
        return round(moment.timestamp() * 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"{option} is {text!r}; give a time with its zone, or how long ago, as 24h") from None
    if moment.tzinfo is None:
        raise click.UsageError(f"{option} is {text!r}, a time without a zone; write it as {text}Z or {text}+01:00")
    return round(moment.timestamp() * 1000)
