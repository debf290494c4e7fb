"""The faults that the simulation must find: one or more a promise, one or more a module that decides.

Promises are named as in docs/proof.md; where one has no number, as the check that holds it.
"""

import msgspec

from .mutation import Mutant


def _of(module: str, *mutants: tuple[str, str, str, str, str]) -> list[Mutant]:
    """Mutants of one module as (name, promise, function, old, new)."""
    return [
        Mutant(name=name, promise=promise, at=f"{module}:{at}", old=old, new=new)
        for name, promise, at, old, new in mutants
    ]


MUTANTS: tuple[Mutant, ...] = (
    # --- the shell, which the simulation stands in for: what it may do only after the commit
    *_of(
        "tests.simulation.world",
        (
            "acknowledge before the commit", "P1", "Simulation._decide", "turn = processor.seal()",
            "turn = processor.seal(); self._hand_out([e for e in processor._effects if isinstance(e, Answer)])",
        ),
        (
            "release effects before the commit", "P4", "Simulation._decide", "turn = processor.seal()",
            "turn = processor.seal(); self._hand_out(processor._effects); processor._effects = []",
        ),
    ),
    *_of(
        "engine.processor",
        (
            "effects of a turn are released with the next one too", "P4", "Processor.committed",
            "released, self._effects = self._effects, []",
            "released = getattr(self, '_kept', []) + self._effects; self._kept = self._effects",
        ),
        (
            "drop a timer when it fires with others", "P7", "Processor._begin",
            "for key in due:\n        run, step", "for key in due[:1]:\n        run, step",
        ),
        (
            "fire timers a second early", "F4", "Processor._begin",
            "keys.timer_due_ms(key) <= now:", "keys.timer_due_ms(key) <= now + 1000:",
        ),
        (
            "what timers send to owners is forgotten", "P7", "Processor._begin",
            "due_ms=keys.timer_due_ms(key)))\n        self._decide_messages()",
            "due_ms=keys.timer_due_ms(key))); engine.draft.messages.clear()",
        ),
        (
            "ids of events are never swept", "state", "Processor._begin",
            "if day != self._swept_day:", "if False:",
        ),
        (
            "what was in flight is not recovered", "P7", "Processor.recover",
            "self._inbox.extend(self.engine.recover(is_counted=is_counted))",
            "self.engine.recover(is_counted=is_counted)",
        ),
    ),
    *_of(
        "engine.draft",
        (
            "records of a turn are written again with the next", "journal", "Draft.begin",
            "self.records, self.events,", "_, self.events,",
        ),
        (
            "effects of a turn are released again with the next", "P4", "Draft.begin",
            "self.effects, self.follow_ups = [], [], [], []", "_, self.follow_ups = [], [], [], []",
        ),
    ),
    *_of(
        "engine.engine",
        (
            "a run in flight is not begun again after a crash", "P7", "Engine.recover",
            "found.append(DispatchLost(", "(DispatchLost(",
        ),
        (
            "an end in order is taken for one for ever", "state", "Engine.recover",
            "state.delete(keys.DRAINED)", "pass",
        ),
        (
            "live runs are not counted after a crash", "P8", "Engine.recover", "runs.live += 1", "pass",
        ),
        (
            "runs whose function comes back are not adopted", "P7", "Engine.recover",
            "for key, _ in orphans)", "for key, _ in orphans[:0])",
        ),
        (
            "bodies that outlive their run are waited for after a crash", "P7", "Engine.recover",
            "runs.remove(run)", "runs.live += 1",
        ),
        (
            "which events are waited for is forgotten in a crash", "STEP-12", "Engine.recover",
            "self._waits.recover(env)", "pass",
        ),
        (
            "mail does not go on by itself", "P7", "Engine.pump", " or not self._mail.is_empty", "",
        ),
    ),
    *_of(
        "engine.events",
        (
            "an event with an id of the sender's may start two runs", "P3", "accept_event",
            "is_repeatable=sender_id is not None or is_seeded", "is_repeatable=is_seeded",
        ),
        (
            "a request that is sent again may start two runs", "P3", "accept_event",
            "is_repeatable=sender_id is not None or is_seeded", "is_repeatable=sender_id is not None",
        ),
    ),
    *_of(
        "engine.functions",
        (
            "an event starts only the first of its functions", "P2", "Registry.started_by",
            "return found", "return found[:1]",
        ),
        (
            "the first condition of a function decides for all of its triggers", "P2", "_candidates",
            "if None in found else", "if found[0] is None else",
        ),
    ),
    *_of(
        "engine.ids",
        (
            "run ids do not tell functions apart", "P3", "run_id", "_cause(env, function)", "_cause(env, '')",
        ),
    ),
    *_of(
        "engine.keys",
        (
            "timers are not in the order of their times", "P7", "timer",
            'due_ms.to_bytes(8, "big")', 'due_ms.to_bytes(8, "little")',
        ),
    ),
    *_of(
        "engine.retry",
        (
            "a retry may be asked for in the past", "D4", "delay_ms",
            "min(max(asked_ms, LEAST_RETRY_AFTER_MS), MOST_RETRY_AFTER_MS)", "asked_ms",
        ),
    ),
    *_of(
        "engine.routing",
        (
            "an accepted event is not written", "P2", "Routing.accept", "draft.events.append(event.body)", "pass",
        ),
        (
            "an event is answered and not routed", "P2", "Routing.accept", "draft.journal(", "str(",
        ),
        (
            "forget which ids were seen", "P3", "Routing._claim",
            "state.put(keys.seen(event.env, today, function, event.id), encode((encode_ulid(run), now_ms)))", "pass",
        ),
        (
            "an id is looked for among today's only", "P3", "Routing._claim",
            "oldest = min(today - 1, self._unswept.get(event.env, today))", "oldest = today",
        ),
        (
            "an id is free after its day, though its run is open", "P3", "Routing._claim",
            "or self._runs.is_open(keys.run(event.env, decode_ulid(owner)))", "",
        ),
        (
            "an id is held after its day, though its run has ended", "P2", "Routing._claim",
            "now_ms - first_ms < DAY_MS or self._runs.is_open(keys.run(event.env, decode_ulid(owner)))", "True",
        ),
        (
            "forget the ids of open runs when they are swept", "P3", "Routing.sweep",
            "if self._runs.is_open(keys.run(env, decode_ulid(owner))):", "if False:",
        ),
        (
            "ids are swept a day too early", "P3", "Routing.sweep",
            "stop = keys.seen_day(env, today - 1)", "stop = keys.seen_day(env, today)",
        ),
        (
            "a run starts at once though its event's time is later", "EVT-06", "Routing._schedule",
            "is_future = event.ts_ms > draft.now_ms", "is_future = False",
        ),
        (
            "a run that starts later has no timer", "P7", "Routing._schedule",
            "runs.set_timer(run, event.ts_ms)", "pass",
        ),
        (
            "a run that finds no place is forgotten", "P7", "Routing._schedule",
            "self._dispatches.enqueue(run)", "pass",
        ),
        (
            "an event does not tell which waits it ends", "journal", "Routing.accept",
            "resumed=resumed or msgspec.UNSET", "resumed=msgspec.UNSET",
        ),
        (
            "an event is not answered", "P1", "Routing.accept",
            "draft.effects.append(effects.Answer(event.ticket))", "pass",
        ),
    ),
    *_of(
        "engine.crons",
        (
            "a tick is planned twice", "FN-07", "Crons.fire",
            "tick.planned_ms if is_current else", "tick.planned_ms - 60000 if is_current else",
        ),
        (
            "the next tick is not planned", "P7", "Crons.fire",
            "self._put(key, tick.function, crons, tick.planned_ms if is_current else now_ms)", "pass",
        ),
        (
            "a cron is planned anew at every start", "P7", "Crons.plan",
            "if crons and (before is None or before.crons != crons):", "if crons:",
        ),
        (
            "the timer of a cron that is gone stays", "P7", "Crons.plan",
            "state.delete(keys.cron_timer(before.due_ms, key))", "pass",
        ),
        (
            "ticks that were missed are left out", "GAP-04", "Crons.fire",
            "self._missed(tick, now_ms) if was_missed else", "[] if was_missed else",
        ),
    ),
    *_of(
        "engine.cron",
        (
            "every missed tick is caught up", "GAP-04", "CronSchedule.missed",
            'most = 1 if catch_up == "last" else MOST_CAUGHT_UP', "most = MOST_CAUGHT_UP",
        ),
    ),
    *_of(
        "engine.dispatching",
        (
            "a run is parked by a driver that was told to let it go", "P4", "Dispatches.park",
            "run.head.generation != message.generation or ", "",
        ),
        (
            "what came while a run was parked does not wake it", "P7", "Dispatches.park",
            "run.recorded != message.delivered or ", "",
        ),
        (
            "a step that came due while its run was parked does not wake it", "P7", "Dispatches.park",
            'any(run.steps[step].state == "due" for step in run.retried)', "False",
        ),
        (
            "a dispatch has the generation of the one before", "P4", "Dispatches.dispatch",
            "head.generation += 1", "head.generation = 1",
        ),
        (
            "a dispatch is not written", "P7", "Dispatches.dispatch", "self._runs.put_head(run)", "pass",
        ),
        (
            "runs of an unknown function are not noted", "P7", "Dispatches.dispatch",
            'self._draft.state.put(keys.orphan(head.function, run.key), b"")', "pass",
        ),
        (
            "one run more than allowed is live", "P8", "Dispatches.pump",
            "free = places - self._runs.live", "free = places - self._runs.live + 1",
        ),
        (
            "a run is taken from the queue and forgotten", "P7", "Dispatches.pump",
            "self.dispatch(run, _reason(run))", "pass",
        ),
        (
            "a lost process is not counted", "P5", "Dispatches.lose", "head.lost += 1", "head.lost = 1",
        ),
        (
            "a body may take its process along for ever", "P5", "Dispatches.lose",
            "head.is_poisoned = head.lost > bound", "pass",
        ),
        (
            "a run that lost its process has no timer", "P7", "Dispatches.lose",
            "self._runs.set_timer(run, self._draft.now_ms + delay)", "pass",
        ),
        (
            "the note of an unknown function stays", "P7", "Dispatches.adopt",
            "self._draft.state.delete(keys.orphan(message.function, message.run))", "pass",
        ),
        (
            "a run is begun again before its back-off is over", "P5", "Dispatches.start",
            " or run.head.due_ms", "",
        ),
    ),
    *_of(
        "engine.run",
        (
            "results are delivered out of their order", "P9", "Run.recorded_steps",
            "sorted((s.stack, h) for h, s in self.steps.items() if s.stack >= 0)",
            "sorted((h, h) for h, s in self.steps.items() if s.stack >= 0)",
        ),
        (
            "failed attempts are forgotten when a run is replayed", "P5", "Run.due_attempts",
            'if s.state == "due"', 'if s.state == "forgotten"',
        ),
        (
            "the driver is not told which steps wait", "P5", "Run.pending_steps",
            'if s.state in ("waiting", "errored")', 'if s.state == "waiting"',
        ),
        (
            "a run is read back with another id", "P6", "Run.__init__",
            "encode_ulid(keys.run_id_of(key))", "encode_ulid(keys.run_id_of(key)[:15] + bytes(1))",
        ),
        (
            "the numbers of a journal begin anew when a run is read back", "journal", "read_run",
            "run.seq = max(run.seq, step.seq)", "pass",
        ),
        (
            "the order of results begins anew when a run is read back", "P9", "read_run",
            "run.recorded = max(run.recorded, step.stack + 1)", "pass",
        ),
    ),
    *_of(
        "engine.runs",
        (
            "a run that has ended is read back", "P7", "Runs.get",
            "if self._state.is_deleted(key):", "if False:",
        ),
        (
            "a run leaves memory before the table has it", "P4", "Runs.forget_idle",
            "idle[0][0] < oldest", "idle[0][0] <= oldest",
        ),
        (
            "a run leaves memory though it is live", "P7", "Runs.forget_idle", " and not run.is_live", "",
        ),
        (
            "the count of live runs is not lowered", "P8", "Runs.set_live", "self.live -= 1", "pass",
        ),
        (
            "the note of a live run stays", "P7", "Runs.set_live",
            "self._state.delete(keys.live(run.key))", "pass",
        ),
        (
            "a run that waits for a place is not written", "P7", "Runs.put_queued",
            'b"" if run.has_rows else pack_unbegun(run)', 'b""',
        ),
        (
            "a run has no timer", "P7", "Runs.set_timer",
            'self._state.put(keys.timer(due_ms, run.key, keys.NO_STEP), b"", new=True)', "pass",
        ),
    ),
    *_of(
        "engine.endings",
        (
            "an attempt that is over may end its run", "P4", "Endings.report",
            "run.head.generation != message.generation or ", "",
        ),
        (
            "an attempt that was reported twice counts twice", "ERR-04", "Endings.report", " or not run.is_live", "",
        ),
        (
            "the function's own code is tried again for ever", "ERR-04", "Endings._try_again",
            "head.attempt += 1", "pass",
        ),
        (
            "a failure is told twice", "ERR-13", "Endings.fail",
            "[self._failed_event(run, error)]", "[self._failed_event(run, error)] * 2",
        ),
        (
            "a failure is not told", "ERR-13", "Endings.fail", "[] if run.head.is_quiet else", "[] if True else",
        ),
        (
            "the failure of a failure's handler is told", "ERR-13", "Endings.fail", "[] if run.head.is_quiet else", "",
        ),
        (
            "an end is told though it failed only", "SYS-04", "Endings._end",
            "if (self._registry.is_trigger(FINISHED_EVENT) or self._waits.is_used) and self._is_asked_for_end(run):",
            "if error is None and self._registry.is_trigger(FINISHED_EVENT):",
        ),
        (
            "the end of a child is not told", "P7", "Endings._end",
            "self._draft.tell_run(parent, WaitEnded(", "(parent, WaitEnded(",
        ),
        (
            "the count of live runs is not lowered at an end", "P8", "Endings._end", "self._runs.live -= 1", "pass",
        ),
        (
            "a wait's key stays when its run ends", "P7", "Endings._end",
            "self.leave_index(run, step_hash, step)", "pass",
        ),
        (
            "a step's timer stays when its run ends", "P7", "Endings._end",
            "gone.append(keys.timer(step.due_ms, key, step_hash))", "pass",
        ),
        (
            "the run's own timer stays when it ends", "P7", "Endings._end",
            "gone.append(keys.timer(head.due_ms, key, keys.NO_STEP))", "pass",
        ),
        (
            "the steps of a run stay when it ends", "P7", "Endings._end",
            "gone.append(keys.run_step(key, step_hash))", "pass",
        ),
        (
            "the events of a run stay when it ends", "P7", "Endings._end",
            "gone += [keys.run_event(key, index) for index in range(len(run.events))]", "pass",
        ),
        (
            "a run that has ended waits for its bodies for ever", "P7", "Endings._end",
            "self._runs.set_timer(run, self._draft.now_ms + MOST_STEP_MS)", "pass",
        ),
        (
            "late answers are not kept", "P4", "Endings.keep_late", "self._draft.journal(", "str(",
        ),
    ),
    *_of(
        "engine.steps",
        (
            "an answer for a dispatch that is over is applied", "P4", "Steps.report",
            "run.head.generation != message.generation\n", "False\n",
        ),
        (
            "a step of a run that has ended is recorded", "journal", "Steps.report",
            "or run.head.state in TERMINAL", "",
        ),
        (
            "a step is recorded twice", "P4", "Steps.report",
            'step.state != "due" or step.attempt != message.attempt', "step.attempt != message.attempt",
        ),
        (
            "an attempt is counted twice", "P5", "Steps.report",
            'step.state != "due" or step.attempt != message.attempt', 'step.state != "due"',
        ),
        (
            "a step that is due again is not begun", "P7", "Steps.fire",
            "self._draft.effects.append(effects.Retry(", "(effects.Retry(",
        ),
        (
            "a step that is due again is not written", "P7", "Steps.fire",
            "self._runs.put_step(run, message.step, step, is_new=False)", "pass",
        ),
        (
            "a step that came due is not noted for parking", "P7", "Steps.fire",
            "run.retried += (message.step,)", "pass",
        ),
        (
            "a step waits for its timer after its run was woken by it", "P7", "Steps._wake",
            "run.head.due_ms = 0", "pass",
        ),
        (
            "an event tells of waits that wait on", "journal", "Steps.resumed_by",
            "if not step.wait.all_of or step.wait.met.keys() | {met.name} == set(step.wait.events):", "if True:",
        ),
        (
            "what is found by looking back is forgotten", "STEP-12", "Steps._wait_for_event",
            "looked.found if looked is not None else ()", "()",
        ),
        (
            "a wait for several events ends with the first", "STEP-08", "Steps._meet",
            "if wait.all_of:", "if False:",
        ),
        (
            "which events of several came is not written", "STEP-12", "Steps._meet",
            "set(wait.events)):\n            self._runs.put_step(run, key, step, is_new=False)", "set(wait.events)):",
        ),
        (
            "a wait is ended twice", "P4", "Steps._waiting", ' and step.state == "waiting"', "",
        ),
        (
            "the timer of a wait that has ended stays", "P7", "Steps._stop_waiting",
            "self._draft.state.delete(keys.timer(step.due_ms, run.key, key))", "pass",
        ),
        (
            "the key of a wait that has ended stays", "P7", "Steps._stop_waiting",
            "self._endings.leave_index(run, key, step)", "pass",
        ),
        (
            "the key of a wait that timed out stays", "P7", "Steps._time_out",
            "self._endings.leave_index(run, key, step)", "pass",
        ),
        (
            "a child does not know who waits for it", "P7", "Steps._invoke", "parent=(run.key, key),", "",
        ),
        (
            "events that a step sends share an id", "P2", "Steps._send",
            "hash16(run.key, key, index.to_bytes(4, \"big\"))", "hash16(run.key, key)",
        ),
        (
            "a step that failed once too often is tried again", "P5", "Steps._err",
            "step.attempt >= retries", "step.attempt > retries",
        ),
        (
            "a step that failed has no timer", "P7", "Steps._err",
            "self._runs.set_step_timer(run, key, step)", "pass",
        ),
        (
            "a step that waits has no timer", "P7", "Steps._wait",
            "self._runs.set_step_timer(run, key, step)", "pass",
        ),
        (
            "results share a place in the order", "P9", "Steps._record",
            "step.stack, step.due_ms, step.at_ms = run.recorded, 0, now_ms",
            "step.stack, step.due_ms, step.at_ms = 0, 0, now_ms",
        ),
        (
            "a run is resumed twice", "P4", "Steps._record",
            "self._draft.effects.append(effects.Resume(run.key, head.generation, recorded))",
            "self._draft.effects += [effects.Resume(run.key, head.generation, recorded)] * 2",
        ),
        (
            "a result is not written", "P4", "Steps._record",
            "self._runs.put_step(run, key, step, is_new=is_new)", "pass",
        ),
        (
            "a run that only waited is not woken by a result", "P7", "Steps._record",
            "self._dispatches.start(run)", "pass",
        ),
        (
            "attempts count on after a result", "ERR-04", "Steps._record",
            "head.lost, head.attempt, head.is_poisoned = 0, 0, False", "head.lost, head.is_poisoned = 0, False",
        ),
    ),
    *_of(
        "engine.signals",
        (
            "a step takes over a signal though it may not", "signal", "Signals.wait",
            "if waiter is not None and not message.replaces:", "if False:",
        ),
        (
            "a step waits on for a signal that another took over", "signal", "Signals.wait",
            'self._refuse(waiter, f"another step has taken over the signal {message.signal!r}")', "pass",
        ),
        (
            "a signal's key stays", "P7", "Signals.send", "self._draft.state.delete(key)", "pass",
        ),
        (
            "the sender of a signal hears of nobody", "signal", "Signals.answer",
            "output=encode(run_id)", "output=encode(None)",
        ),
        (
            "a step that waits no more keeps others from a signal", "P7", "Signals.forgotten",
            "self._draft.state.delete(message.key)", "pass",
        ),
        (
            "a step that waits no more takes its successor's signal", "signal", "Signals.forgotten",
            "self._waiter(message.key) == (message.run, message.step)", "True",
        ),
    ),
    *_of(
        "engine.waits",
        (
            "a wait for several events is found by the first", "STEP-12", "Waits.spots",
            "for name in dict.fromkeys(names):", "for name in names[:1]:",
        ),
        (
            "the paths of waits are not written", "STEP-12", "Waits._register",
            "self._draft.state.put(key, encode((name, path)))", "pass",
        ),
        (
            "a wait without an equality is not found", "STEP-12", "places_of",
            "value_hash(event, path) if path else keys.NO_PATH", "value_hash(event, path) if path else None",
        ),
    ),
    *_of(
        "engine.arrivals",
        (
            "the condition of a wait is ignored", "STEP-08", "Arrivals._fits", "if wait.if_exp is None:", "if True:",
        ),
        (
            "an event that came before its wait ends it", "STEP-08", "_counts",
            "mailed.place >= wait.since and ", "",
        ),
        (
            "waits beyond a turn's bound are forgotten", "STEP-12", "Arrivals._first", "self._mail.add(", "str(",
        ),
        (
            "mail is not looked at when a wait's time is up", "G2", "Arrivals.mailed_for",
            "if is_awaited and", "if False and",
        ),
    ),
    *_of(
        "engine.mail",
        (
            "mail is not read back", "STEP-12", "Mail.recover", "self._waiting.append(", "str(",
        ),
        (
            "how far mail has come is not written", "P7", "Mail.put",
            "self._draft.state.put(mailed.key, encode((mailed.env, mailed.name, mailed.beyond)))", "pass",
        ),
        (
            "the note of mail that is done stays", "P7", "Mail.remove_first",
            "self._draft.state.delete(mailed.key)", "pass",
        ),
    ),
    *_of(
        "engine.recent",
        (
            "a window is not filled from the log", "G1", "Recent.since",
            "if place < window.whole_from and not window.is_cut:", "if False:",
        ),
        (
            "a window that lacks room says nothing of it", "G1", "Recent._read_back",
            "window.is_cut, window.cut_ms, window_from = True, latest_ms, turn + 1", "window_from = turn + 1",
        ),
        (
            "events are not noted for waits that look back", "G1", "Recent.note",
            "window.append(Arrival(name, self._draft.next_place, received_ms, body), event)", "pass",
        ),
        (
            "events of before the trigger count", "STEP-08", "Recent.since", "if arrival.place < place:", "if False:",
        ),
        (
            "events count that came too long ago", "STEP-08", "Recent.since",
            "if arrival.received_ms >= oldest_ms:", "if True:",
        ),
    ),
    *_of(
        "engine.windows",
        (
            "an event is not found by its value in a window", "G1", "Window.append",
            "for path in self.paths:", "for path in ():",
        ),
    ),
    *_of(
        "engine.backoffs",
        (
            "a sleep is taken for a wait for another attempt", "F4", "_is_backoff", 'state.state == "errored" and', "",
        ),
        (
            "a start in the future is taken for a wait for another attempt", "EVT-06", "_is_backoff",
            "run.head.state == WAITING and", "",
        ),
        (
            "a wait for another attempt keeps its timer when it is ended", "P7", "end_backoffs",
            "draft.state.delete(keys.timer(fired.due_ms, fired.run, fired.step))", "pass",
        ),
        (
            "somebody asks for all attempts and gets one", "P5", "end_backoffs",
            "_backoffs(runs, timers, message.env):", "list(_backoffs(runs, timers, message.env))[:1]:",
        ),
    ),
    *_of(
        "engine.versions",
        (
            "a function that has changed keeps its version", "FN-22", "Versions._register",
            "before is not None and before.configuration == configuration", "before is not None",
        ),
        (
            "a function has another version after every start", "FN-22", "Versions._register",
            "before is not None and before.configuration == configuration", "False",
        ),
        (
            "the version of a function is not written", "FN-22", "Versions._register",
            "self._draft.state.put(key, encode(_Registered(number, configuration)))", "pass",
        ),
    ),
    *_of(
        "engine.state",
        (
            "the table is read before the overlay", "state", "State.get",
            "if key in self._pending:", "if key in self._pending and self._table.get(key) is None:",
        ),
        (
            "a deletion is forgotten though the table has the key", "state", "State.delete",
            "is_gone = key in new", "is_gone = key in pending",
        ),
        (
            "a key is taken for new that the table has", "state", "State.put", "if new:", "if True:",
        ),
        (
            "the redo is cut one turn too early", "state", "State.seal",
            "self._entered[0][0] if self._entered else", "self._entered[0][0] + 1 if self._entered else",
        ),
        (
            "the redo is cut over a key that is pending", "state", "State._forget_gone",
            "if found:", "if len(found) > 1:",
        ),
        (
            "deletions do not reach the table", "state", "State._take_slice",
            "flush.append((key, value))", "flush += [(key, value)] if value is not None else []",
        ),
        (
            "pending keys of a group are not found", "STEP-12", "State.group",
            "self._groups[prefix[0]].pending(prefix)", "set()",
        ),
        (
            "a window believes to be complete", "P7", "Head._refill",
            "if len(rows) < self._size:", "if len(rows) <= self._size:",
        ),
        (
            "a window ignores pending keys when it moves on", "P7", "Head._refill", "self._alive.update(near)", "pass",
        ),
        (
            "keys beyond a window are not noted", "P7", "Head.put", "self._beyond.add(key)", "pass",
        ),
    ),
    *_of(
        "log.memory",
        (
            "what is not in the table yet is not read back", "state", "MemoryLog.load",
            "self._table.write(key, value)", "pass",
        ),
        (
            "the log cuts one turn more than it is told", "state", "MemoryLog.commit",
            "self._redo[0][0] < turn.state.redo_from", "self._redo[0][0] <= turn.state.redo_from",
        ),
    ),
)  # fmt: skip

CLUSTER_MUTANTS = tuple(
    msgspec.structs.replace(mutant, is_of_cluster=True)
    for mutant in (
        *_of(
            "log.kafka",
            (
                "an event is routed before what was told of earlier", "STEP-12", "KafkaLog.take",
                "owned[partition].held_until = ends[Place(INBOX, partition)]", "pass",
            ),
            (
                "an open transaction in the inbox is passed over", "STEP-12", "KafkaLog._take",
                "if owned.held and owned.positions[INBOX] >= owned.held_until:", "if owned.held:",
            ),
            (
                "the registry is not read before events are routed", "STEP-12", "KafkaLog.take",
                "await self._read_registry(ends[_REGISTRY])", "pass",
            ),
            (
                "what has to be known first is not registered", "STEP-12", "KafkaLog.commit",
                "if registered:", "if False:",
            ),
            (
                "a start reads inputs from their beginning", "P2", "_Owned.__init__",
                "self.positions = {topic: _position(cache.table, topic) for topic in INPUTS}",
                "self.positions = {topic: 0 for topic in INPUTS}",
            ),
            (
                "a state is read to where it is known", "P2", "KafkaLog._read_state",
                "await self._read(place, first, end, take, [place.partition])", "pass",
            ),
            (
                "the redo is not read", "P2", "KafkaLog._read_redo",
                "await self._read(place, first, end, take, [p for p in replays if self._redo(p) == place])", "pass",
            ),
            (
                "a cache outlives the tombstones", "P7", "KafkaLog.load",
                "if asked_ms - cache.as_of_ms > self._tombstones_ms // 2:", "if False:",
            ),
            (
                "a cache says that it has a turn whose keys it lacks", "P2", "_written",
                "[*turn.state.flush, (START, start)]", "[(START, start)]",
            ),
            (
                "what the redo owes the state is not written", "P2", "KafkaLog._leaving", "**owned.owed, ", "",
            ),
            (
                "the redo begins behind what is needed", "P2", "KafkaLog._leaving",
                "start = owned.starts[0][1] if", "start = owned.starts[-1][1] if",
            ),
            (
                "redo is deleted that another partition needs", "P7", "KafkaLog.shorten",
                "for p in range(self._partitions) if self._redo(p) == place)",
                "for p in self._owned if self._redo(p) == place)",
            ),
            (
                "messages for other partitions are not written", "P7", "KafkaLog._told",
                "for to, message in turn.outbox", "for to, message in ()",
            ),
            (
                "what steps produce is not written", "produce", "KafkaLog._told",
                "for record in turn.produced", "for record in ()",
            ),
        ),
        *_of(
            "log.redo",
            (
                "deletions are not written", "P7", "redo_records",
                "_parts(state.changes)", "_parts({key: value for key, value in state.changes.items() if value})",
            ),
            (
                "a turn that is needed is forgotten", "P2", "Replay.add", "< redo.redo_from:", "<= redo.redo_from:",
            ),
        ),
        *_of(
            "partitions",
            (
                "a process goes on with the producer that has failed", "P2", "Partitions._take_part",
                "await self._log.renew()", "pass",
            ),
            (
                "effects are released before the commit", "P4", "Partitions._turn",
                "committing = self._committing = asyncio.ensure_future(self._log.commit(turns))",
                "[self._deliver(self._owned[p].processor._effects) for p in turns]; "  # noqa: ISC004
                "committing = self._committing = asyncio.ensure_future(self._log.commit(turns))",
            ),
        ),
        *_of(
            "partitions",
            (
                "a process that was away ends", "P7", "Partitions._take_part", "if self._is_truncated:", "if True:",
            ),
            (
                "a record gets into a transaction whatever its topic says", "produce", "Partitions._check",
                "if problem is not None:", "if False:",
            ),
        ),
        *_of(
            "engine.steps",
            (
                "a step is recorded whose record is not written", "produce", "Steps._produce",
                "self._draft.produced.append(op)", "pass",
            ),
        ),
        *_of(
            "engine.processor",
            (
                "how far the input has come is not in the state", "P2", "Processor.seal",
                "engine.state.put(keys.position(topic), keys.number(offset))", "pass",
            ),
        ),
        *_of(
            "engine.waits",
            (
                "a wait does not stand in another partition's index", "STEP-12", "Waits.arm",
                "self._draft.send(slot_of_place(spot.key), WaitArmed(key=spot.key))", "pass",
            ),
            (
                "a wait is not taken out of another partition's index", "P7", "Waits.leave",
                "self._draft.send(slot_of_place(key), WaitForgotten(key=key, run=run_key, step=step))", "pass",
            ),
            (
                "other partitions do not hear of an event", "STEP-12", "Waits.offer",
                "if not self._is_here(prefix):", "if False:",
            ),
            (
                "a partition does not learn what others look into", "STEP-12", "Waits.learn",
                "self._paths.setdefault((env, name), {}).setdefault(path, path_hash(path))", "pass",
            ),
        ),
        *_of(
            "engine.arrivals",
            (
                "a step of another partition does not hear of its event", "STEP-12", "Arrivals._bring",
                "self._draft.tell_run(run, met)", "pass",
            ),
            (
                "a step goes on with an event that it does not want", "STEP-08", "Arrivals.brought",
                "if fits else []", "",
            ),
        ),
        *_of(
            "engine.arrivals",
            (
                "a wait that looks back does not ask", "P7", "Arrivals.look_back",
                "self.ask(run, step, wait, spots, now_ms)", "pass",
            ),
            (
                "that a wait asks is not written", "P7", "Arrivals.look_back",
                'self._draft.state.put(keys.ask(run.key, step), b"", new=True)', "pass",
            ),
            (
                "a wait that has its answer asks on", "P7", "Arrivals.looked_back",
                "self._draft.state.delete(keys.ask(read.run, read.step))", "pass",
            ),
            (
                "an event that was received before the trigger ends a wait", "STEP-08", "_is_behind",
                "received_ms >= wait.since_ms and ", "",
            ),
            (
                "the event that has started a run ends its wait", "STEP-08", "_is_behind",
                "offset > wait.trigger[1]", "True",
            ),
            (
                "an event of another partition is held against all waits at once", "limit", "Arrivals._first",
                "most = self._most - self._draft.met",
                "most = 1 << 40 if mailed.prefix else self._most - self._draft.met",
            ),
            (
                "waits in another partition beyond a turn's bound are forgotten", "STEP-12", "Arrivals._first",
                "if len(found) >= most:", "if len(found) >= most and not mailed.prefix:",
            ),
        ),
        *_of(
            "engine.steps",
            (
                "what comes ends a wait that does not know yet what came before", "G1", "Steps._meet",
                "if wait.is_asking:", "if False:",
            ),
            (
                "its time ends a wait that does not know yet what came before", "G1", "Steps._time_out",
                "if step.wait is not None and step.wait.is_asking:", "if False:",
            ),
            (
                "what came while a wait asked is forgotten", "STEP-12", "Steps.looked_back",
                "put_by, wait.met = wait.met, {}", "put_by = wait.met = {}",
            ),
            (
                "a wait whose time was up while it asked waits for ever", "P7", "Steps.looked_back",
                "if not step.due_ms:", "if False:",
            ),
        ),
        *_of(
            "engine.endings",
            (
                "a run that ends leaves what its waits have asked", "P7", "Endings.leave_index",
                "if step.wait is not None and step.wait.is_asking:", "if False:",
            ),
        ),
        *_of(
            "engine.engine",
            (
                "what was asked for is not asked for again after a loss", "P7", "Engine.recover",
                "found += [LookBack(run=run, step=step) for run, step in asking]", "pass",
            ),
        ),
        *_of(
            "engine.mail",
            (
                "mail goes on without its event", "P7", "Mail.add",
                "draft.state.put(keys.mail_event(mailed.key), kept, new=True)", "pass",
            ),
            (
                "the event of mail that is done stays", "P7", "Mail.remove_first",
                "self._draft.state.delete(keys.mail_event(mailed.key))", "pass",
            ),
            (
                "two events of a turn share their mail", "P7", "Mail.add",
                "count + 1 if turn == draft.number else 0", "0",
            ),
            (
                "an event overtakes the mail", "STEP-12", "Mail.add",
                "self._waiting.append(mailed)", "self._waiting.appendleft(mailed)",
            ),
        ),
        *_of(
            "log.lookback",
            (
                "what was written since the last reading is not read", "G1", "_Tail.read",
                "while self._end < end:", "while False:",
            ),
            (
                "a window that is not whole is taken for whole", "G1", "_Tail.read",
                "if since_ms < self._whole_ms.get(name, since_ms + 1) and not window.is_cut:",
                "if name not in self._whole_ms:",
            ),
            (
                "what is read back is not kept", "G1", "_Tail._read_back", "window.prepend(older[name])", "pass",
            ),
            (
                "an open transaction hides what is read back", "G1", "_Tail._fetch",
                "begin = after", "begin = after if after > begin else end",
            ),
            (
                "only one partition is read back", "G1", "Lookback._found",
                "in self._tails.items():", "in list(self._tails.items())[:1]:",
            ),
            (
                "what is read back is not in the order of receipt", "G1", "Lookback._found",
                "found.sort(key=lambda arrival: (arrival.received_ms, decode_stored(arrival.body).internal_id))",
                "pass",
            ),
            (
                "what was read before the trigger counts", "STEP-08", "Lookback._found",
                "arrival.place[0] <= after or ", "",
            ),
            (
                "what was received before the trigger counts", "STEP-08", "Lookback._found",
                "if arrival.received_ms >= question.since_ms:", "if True:",
            ),
        ),
        *_of(
            "engine.draft",
            (
                "a message for another partition is decided here", "P7", "Draft.send",
                "if self.is_here(slot):", "if True:",
            ),
            (
                "an event is routed where it is sent", "P2", "Draft.accept", "if self.home.events_return:", "if False:",
            ),
        ),
    )
)  # fmt: skip

ALL_MUTANTS = (*MUTANTS, *CLUSTER_MUTANTS)
