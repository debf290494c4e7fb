"""The open runs in memory, and what is written of them.

Invariant: a run stays in memory until its last write is in the table, so reading one back never merges
(``engine/state.py``).
"""

from collections import deque
from collections.abc import Sequence

from steplog.engine import keys
from steplog.engine.draft import Draft, encode
from steplog.engine.run import QUEUED, Run, StepState, pack_unbegun, read_run, read_unbegun


class Runs:
    """Reads, writes and forgets the runs of one partition."""

    def __init__(self, draft: Draft) -> None:
        self._draft, self._state = draft, draft.state
        self._open: dict[bytes, Run] = {}
        self._idle: deque[tuple[int, bytes]] = deque()  # (last turn, run key) of runs that may leave memory
        self.live = 0  # how many are dispatched

    def get(self, key: bytes) -> Run | None:
        """Find a run; None where there is none, or no more."""
        run = self._open.get(key)
        if run is None:
            if self._state.is_deleted(key):  # the table may not know yet
                return None
            run = read_run(key, self._state.owned(key))
            if run is None:
                value = self._state.get(keys.queue(key))
                if not value:
                    return None
                run = read_unbegun(key, value)
            self._keep(run)
        return run

    def preload(self, run_keys: Sequence[bytes]) -> None:
        """Read runs into memory together: one query instead of one each."""
        missing = [key for key in run_keys if key not in self._open and not self._state.is_deleted(key)]
        if len(missing) > 1:
            for key, rows in zip(missing, self._state.owned_by(missing), strict=True):
                run = read_run(key, rows)
                if run is not None:
                    self._keep(run)

    def preload_queued(self, queue_keys: Sequence[bytes]) -> None:
        """Read runs that wait for a place, given in order, into memory together."""
        missing = [key for key in queue_keys if keys.run_of(key) not in self._open]
        begun: list[bytes] = []
        found = dict(self._state.stored(missing[0], missing[-1])) if missing else {}
        for queue_key in missing:
            key, value = keys.run_of(queue_key), found[queue_key]
            if value:
                self._keep(read_unbegun(key, value))
            else:
                begun.append(key)
        self.preload(begun)

    def is_open(self, key: bytes) -> bool:
        """Whether a run exists and has not ended."""
        run = self.get(key)
        return run is not None and not run.is_terminal

    def add(self, run: Run) -> None:
        """Keep a run that has just come to be."""
        run.last_turn = self._draft.number
        self._open[run.key] = run

    def _keep(self, run: Run) -> None:
        self._open[run.key] = run
        self.rest(run)

    def rest(self, run: Run) -> None:
        """Let a run leave memory once this turn's writes are in the table."""
        run.last_turn = self._draft.number
        self._idle.append((run.last_turn, run.key))

    def forget_idle(self, open_turn: int | None) -> None:
        """Drop the runs that nothing executes and that the table has whole. ``open_turn`` is being decided."""
        oldest, idle, runs = self._state.oldest_turn, self._idle, self._open
        if oldest is None:
            oldest = open_turn
        while idle and (oldest is None or idle[0][0] < oldest):
            last_turn, key = idle.popleft()
            run = runs.get(key)
            if run is not None and run.last_turn == last_turn and not run.is_live:
                del runs[key]

    # --- what is written

    def put_head(self, run: Run) -> None:
        is_new = not run.has_rows
        run.has_rows, run.head.seq = True, run.seq
        run.last_turn = self._draft.number
        self._state.put(run.key, encode(run.head), new=is_new)
        if is_new:
            for index, event in enumerate(run.events):
                self._state.put(keys.run_event(run.key, index), event, new=True)

    def put_queued(self, run: Run) -> None:
        """Let a run wait for a place: in one row, where it has not begun."""
        run.head.state, run.head.seq = QUEUED, run.seq
        if run.has_rows:
            self.put_head(run)
        self._state.put(keys.queue(run.key), b"" if run.has_rows else pack_unbegun(run), new=True)
        self.rest(run)

    def put_step(self, run: Run, step_hash: bytes, step: StepState, *, is_new: bool) -> None:
        run.last_turn = self._draft.number
        if not run.is_live:
            self._idle.append((run.last_turn, run.key))
        self._state.put(keys.run_step(run.key, step_hash), encode(step), new=is_new)

    def set_live(self, run: Run, is_live: bool) -> None:
        """Note that a run is dispatched, or no longer."""
        if run.is_live == is_live:
            return
        run.is_live = is_live
        if is_live:
            self.live += 1
            self._state.put(keys.live(run.key), b"", new=True)
        else:
            self.live -= 1
            self._state.delete(keys.live(run.key))

    def set_timer(self, run: Run, due_ms: int) -> None:
        """Wake the run itself then."""
        run.head.due_ms = due_ms
        self._state.put(keys.timer(due_ms, run.key, keys.NO_STEP), b"", new=True)

    def set_step_timer(self, run: Run, step_hash: bytes, step: StepState) -> None:
        """Wake a step when it is due."""
        self._state.put(keys.timer(step.due_ms, run.key, step_hash), b"", new=True)

    def outlive(self, run: Run) -> None:
        """Keep the head of a run that has ended while bodies of its steps execute."""
        self.put_head(run)
        self._state.put(keys.live(run.key), b"")
        self.rest(run)

    def remove(self, run: Run) -> None:
        """Delete the head of a run that has ended, the last that there is of it."""
        if run.head.due_ms:
            self._state.delete(keys.timer(run.head.due_ms, run.key, keys.NO_STEP))
        self._state.delete(keys.live(run.key), run.key)
        self._open.pop(run.key, None)
