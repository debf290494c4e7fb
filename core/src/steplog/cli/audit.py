"""``steplog audit``: every accepted event, accounted for from the log alone."""

import re
from datetime import UTC, datetime, timedelta

import click
import msgspec

from steplog.cli.output import Waiting, bar, counted, echo, print_json, styled
from steplog.cli.source import local_log
from steplog.errors import NotFound
from steplog.history.audit import AuditReport
from steplog.history.audit import audit as audit_log
from steplog.paths import log_path

_AGO = re.compile(r"([0-9]+)(s|m|h|d)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.command()
@click.option(
    "--log", envvar="STEPLOG_LOG", help="The log, as sqlite:PATH. Default: that of dev or start in this directory."
)
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
      steplog audit --log sqlite:/var/lib/shop/steplog.db --since 24h --json
    """
    path = log_path(log) if log is not None else local_log()
    if path is None or not path.exists():
        raise NotFound(f"there is no log {path or 'in this directory'}; name it with --log sqlite:PATH")
    with Waiting() as waiting:
        report = audit_log(
            path, _at_ms(since, "--since"), _at_ms(until, "--until"), is_deep=deep,
            on_progress=lambda turn, last: waiting.show(f"audit  {bar(turn, last)} {turn:,} of {last:,} turns"),
        )  # fmt: skip
    if as_json:
        fields = msgspec.to_builtins(report)
        print_json({"ok": report.is_clean, "log": str(path), **fields})
    else:
        echo(_drawn(report))
    return 0 if report.is_clean else 1


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
