"""What an accepted event starts: its function's runs, at most one for each id that a sender gave (EVT-14, P3)."""

import msgspec

from steplog.engine import effects, keys, records
from steplog.engine.dispatching import Dispatches
from steplog.engine.draft import Draft, encode
from steplog.engine.events import FAILED_EVENT, FINISHED_EVENT
from steplog.engine.failures import Failures
from steplog.engine.functions import ENVIRONMENTS, FunctionSpec, Registry
from steplog.engine.ids import decode_ulid, encode_ulid, run_id
from steplog.engine.messages import EventAccepted, SweepSeen
from steplog.engine.run import SCHEDULED, Run, RunHead
from steplog.engine.runs import Runs
from steplog.engine.versions import Versions

SWEPT_PER_TURN = 500
QUIET = frozenset({FAILED_EVENT, FINISHED_EVENT})  # of a run that one of them started no event tells (ERR-19)
DAY_MS = keys.DAY_MS

_seen_decoder = msgspec.json.Decoder(tuple[str, int])  # run id, when first seen in ms


class Routing:
    """Writes events down, and starts what they trigger."""

    def __init__(
        self, draft: Draft, runs: Runs, versions: Versions, dispatches: Dispatches, registry: Registry,
        failures: Failures,
    ) -> None:  # fmt: skip
        self._draft, self._runs, self._versions = draft, runs, versions
        self._dispatches, self._registry, self._failures = dispatches, registry, failures
        self._unswept: dict[int, int] = {}  # environment → the first day whose ids no sweep has met yet

    def recover(self, env: int) -> None:
        """Find out how far the sweeps have come."""
        for key, _ in self._draft.state.scan(keys.seen_env(env), 1):
            self._unswept[env] = keys.seen_day_of(key)

    def accept(self, event: EventAccepted, *, resumed: tuple[records.StepRef, ...] = ()) -> None:
        """Write an event down and route it. ``resumed`` are the steps that go on with it."""
        draft = self._draft
        draft.events.append(event.body)
        started: list[records.RunRef] = []
        skipped: list[records.Skip] = []
        scheduled: list[tuple[bytes, str, FunctionSpec, tuple[bytes, bytes] | None]] = []
        for function in self._registry.started_by(event, on_failure=self._failures.note):
            origin, parent = event.internal_id, None
            if function.id == event.starts:
                origin, parent = event.origin or origin, event.parent
            run = run_id(event.received_ms, event.slot, event.env, function.id, origin)
            if event.is_repeatable and not self._claim(event, function.id, run):
                skipped.append(records.Skip(function.id, "duplicate"))
                continue
            run_text = encode_ulid(run)
            started.append(records.RunRef(run_text, function.id))
            scheduled.append((keys.run(event.env, run), run_text, function, parent))
        draft.journal(
            records.EventRouted(
                at=draft.now_ms, env=ENVIRONMENTS[event.env], event=event.internal_text, name=event.name,
                runs=tuple(started), skipped=tuple(skipped), duplicate=True if skipped else msgspec.UNSET,
                failed=self._failures.take(), resumed=resumed or msgspec.UNSET,
            )
        )  # fmt: skip
        for key, run_text, function, parent in scheduled:
            self._schedule(key, run_text, function, event, parent)
        if event.ticket is not None:
            draft.effects.append(effects.Answer(event.ticket))

    def sweep(self, message: SweepSeen) -> None:
        """Forget ids of days before yesterday; what belongs to an open run moves to today (P3)."""
        env, state = message.env, self._draft.state
        today = self._draft.now_ms // DAY_MS
        stop = keys.seen_day(env, today - 1)
        old = [(key, value) for key, value in state.scan(keys.seen_env(env), SWEPT_PER_TURN) if key < stop]
        for key, value in old:
            state.delete(key)
            owner, _ = _seen_decoder.decode(value)
            if self._runs.is_open(keys.run(env, decode_ulid(owner))):
                state.put(keys.seen_day(env, today) + key[13:], value)
        if len(old) == SWEPT_PER_TURN:
            self._draft.follow_ups.append(SweepSeen(env=env))
        else:
            self._unswept[env] = today - 1

    def _claim(self, event: EventAccepted, function: str, run: bytes) -> bool:
        """Claim (function, event id) for a run; false where another one holds it."""
        state, now_ms = self._draft.state, self._draft.now_ms
        today = now_ms // DAY_MS
        oldest = min(today - 1, self._unswept.get(event.env, today))
        for day in range(today, oldest - 1, -1):
            value = state.get(keys.seen(event.env, day, function, event.id))
            if value is not None:
                owner, first_ms = _seen_decoder.decode(value)
                if now_ms - first_ms < DAY_MS or self._runs.is_open(keys.run(event.env, decode_ulid(owner))):
                    return False
        state.put(keys.seen(event.env, today, function, event.id), encode((encode_ulid(run), now_ms)))
        return True

    def _schedule(
        self, key: bytes, run_text: str, function: FunctionSpec, event: EventAccepted,
        parent: tuple[bytes, bytes] | None,
    ) -> None:  # fmt: skip
        draft, runs = self._draft, self._runs
        head = RunHead(
            function=function.id, app=function.app, state=SCHEDULED, parent=parent, is_quiet=event.name in QUIET,
            place=draft.place,
        )  # fmt: skip
        run = Run(key, head, [event.body], run_text)
        runs.add(run)
        # An event without a time of its own never is of the future: whoever received it may have another clock.
        is_future = event.ts_ms > draft.now_ms and event.ts_ms != event.received_ms
        starts = not is_future and self._dispatches.has_place()
        draft.journal(
            records.RunScheduled(
                at=draft.now_ms, env=run.env, run=run_text, seq=run.next_seq(), function=function.id,
                app=function.app, version=function.version or msgspec.UNSET,
                function_version=self._versions.of(event.env, function), events=(event.internal_text,),
                due=event.ts_ms if is_future else msgspec.UNSET, started=True if starts else msgspec.UNSET,
                parent=msgspec.UNSET if parent is None else encode_ulid(keys.run_id_of(parent[0])),
            )
        )  # fmt: skip
        if is_future:
            runs.set_timer(run, event.ts_ms)
            runs.put_head(run)
            runs.rest(run)
        elif starts:
            self._dispatches.dispatch(run, None)
        else:
            self._dispatches.enqueue(run)
