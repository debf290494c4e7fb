"""What the demo proves, from three witnesses: the audit of the log, the log's records, and those who were asked."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from steplog.demo.outside import SERVICES, Body, Call
from steplog.history.audit import AuditReport


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """One kill -9, and what it hit."""

    pid: int
    finished: int  # runs
    open: int  # runs of which a body had begun
    not_begun: int
    in_flight: frozenset[Body]  # bodies that had begun and left no result


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """The findings. Each of the three claims holds or does not."""

    accepted: int
    completed: int
    unaccounted: int
    planned: int  # steps
    results: int
    is_recorded_once: bool
    started: int  # bodies
    repeated: list[Body]  # bodies that ran more than once, in the order of orders
    is_repeated_rightly: bool  # those in flight at a kill, as often as they were, and no others
    is_key_kept: bool  # one idempotency key for each body, whenever it ran
    acted: int  # times that bank, warehouse and mail acted

    @property
    def is_accounted(self) -> bool:
        """Whether every event led to a completed run."""
        return not self.unaccounted and self.accepted == self.completed

    @property
    def holds(self) -> bool:
        """Whether everything is as promised."""
        return self.is_accounted and self.is_recorded_once and self.is_repeated_rightly and self.is_key_kept


def prove(
    report: AuditReport, results: Counter[Body], calls: Sequence[Call], kills: Sequence[Kill], orders: Sequence[str],
    acted: int,
) -> Proof:  # fmt: skip
    """Compare what was promised with what the witnesses saw."""
    planned = {Body(service.step, order) for order in orders for service in SERVICES}
    started = Counter([call.body for call in calls])
    lost = Counter([body for kill in kills for body in kill.in_flight])
    keys: dict[Body, set[str]] = {}
    for call in calls:
        keys.setdefault(call.body, set()).add(call.key)
    distinct = {key for of_body in keys.values() for key in of_body}
    return Proof(
        accepted=report.accepted,
        completed=report.completed,
        unaccounted=report.unaccounted,
        planned=len(planned),
        results=report.recorded_steps,
        is_recorded_once=results == Counter(planned) and report.recorded_steps == len(planned) and report.is_clean,
        started=len(calls),
        repeated=sorted((body for body, times in started.items() if times > 1), key=lambda body: body.order),
        is_repeated_rightly=started == Counter(planned) + lost,
        is_key_kept=all(len(of_body) == 1 for of_body in keys.values()) and len(distinct) == len(keys),
        acted=acted,
    )
