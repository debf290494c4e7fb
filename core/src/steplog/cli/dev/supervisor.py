"""The parent of ``steplog dev``: one generation serves; a save, a crash or a signal replaces or ends it."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from steplog.cli.dev.controls import Controls
from steplog.cli.dev.frames import Load, Loaded, Refused
from steplog.cli.dev.generation import CodeRefused, Generation
from steplog.cli.dev.keys import pressed
from steplog.cli.dev.spawn import Spawned, spawn
from steplog.cli.dev.transcript import POLL_S, Transcript
from steplog.cli.dev.watch import Watch, forget_compiled
from steplog.cli.errors import INTERRUPTED, UserCodeFailed
from steplog.cli.lines import at
from steplog.cli.output import counted, echo, is_unicode, styled
from steplog.errors import SteplogError, error_of
from steplog.shells.engine import only

DRAIN_S = 10.0  # how long bodies may go on after Ctrl-C
RELOAD_DRAIN_S = 0.1  # and after a save: those that are about to end may
BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # before each restart in a row
STEADY_S = 10.0  # a generation that served so long does not die at once


class Dev(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent needs to know."""

    load: Load
    url: str
    position: int  # of the log, before it is opened
    payloads: bool
    is_told: bool  # whether what happens is printed; errors are in any case
    announce: Callable[[Loaded, bool], None]  # gets whether there are keys


class Supervisor:
    """Keeps one generation serving on sockets that are the parent's. ``run`` it once."""

    def __init__(self, dev: Dev, sockets: Sequence[socket.socket], first: Spawned) -> None:
        self._dev, self._sockets, self._spawned = dev, sockets, first
        self._watch = Watch()
        self._generations: list[Generation] = []  # whose processes may run
        self._current: Generation | None = None
        self._opened_s = 0.0
        self._saved_ms = 0  # when the code that runs was loaded
        self._crashes = 0  # in a row
        self._is_ending = False
        self._transcript = Transcript(
            Path(dev.load.log_path), dev.load.config.history.address(Path(dev.load.log_path)), _say,
            position=dev.position, payloads=dev.payloads, kafka=dev.load.config.kafka_log,
        )  # fmt: skip
        self._exiting: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM; a second one ends at once. Raises what keeps the first generation from it."""
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            if stopped.is_set():
                for generation in self._generations:
                    generation.kill_now()
                os._exit(INTERRUPTED)
            stopped.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        serving = asyncio.create_task(self._serve())
        try:
            await _first(_until(serving), stopped.wait())
        finally:
            is_over = serving.done()
            serving.cancel()
            await asyncio.wait({serving})
            await self._end(DRAIN_S if stopped.is_set() else 0)
            self._transcript.close()
        if is_over:
            try:
                serving.result()
            except BaseExceptionGroup as errors:
                raise only(errors) from None
        elif self._dev.is_told:
            echo("stopped", err=True)

    async def _serve(self) -> None:
        self._current, loaded = await self._load_first()
        await self._current.open()
        self._opened_s = time.monotonic()
        controls = Controls(self._dev.url, self._transcript, self._retry_now)
        with pressed(controls.press) as has_keys:
            self._transcript.lines.has_keys = has_keys
            self._dev.announce(loaded, has_keys)
            if not self._dev.is_told:
                await self._supervise()
                return
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._supervise())
                tasks.create_task(self._tell())

    async def _tell(self) -> None:
        while True:
            self._transcript.poll()
            await asyncio.sleep(POLL_S)

    async def _supervise(self) -> None:
        while True:
            assert self._current is not None, "one serves, or has served"
            changed, how = await _first(self._watch.changed(), self._current.ended())
            if how is not None:
                self._forget(self._current)
                await self._restart(how)
            elif changed is not None:
                await self._reload(changed)

    # --- the code

    async def _load_first(self) -> tuple[Generation, Loaded]:
        since_ns, generation = time.time_ns(), await self._connect(self._spawned)
        try:
            loaded = await generation.load(self._dev.load)
        except CodeRefused as error:
            raise _error_of(error.refused) from None
        self._watch.replace(loaded.files, since_ns=since_ns)
        self._saved_ms = since_ns // 1_000_000
        return generation, loaded

    async def _reload(self, changed: list[str]) -> None:
        """Load what was saved, and let it take over where that works."""
        began_s = time.monotonic()
        found = await self._load(changed)
        if found is None:
            return
        generation, loaded = found
        before = self._current
        assert before is not None, "it has served"
        await before.stop(RELOAD_DRAIN_S)
        self._current = generation
        exiting = asyncio.create_task(before.exited())
        self._exiting.add(exiting)
        exiting.add_done_callback(lambda _: self._forget(before))
        exiting.add_done_callback(self._exiting.discard)
        if await self._open(generation):
            self._crashes = 0
            functions = counted(sum(app.functions for app in loaded.apps), "function")
            names = ", ".join(Path(file).name for file in changed[:3]) + (" …" if len(changed) > 3 else "")
            _note("reloaded", f"{names}: {functions}, in {time.monotonic() - began_s:.1f} s")

    async def _load(self, changed: list[str]) -> tuple[Generation, Loaded] | None:
        """Load the code as it is now, again if it changes meanwhile; None, and a line, where it cannot be loaded."""
        while True:
            forget_compiled(changed)
            generation, since_ns = await self._start(), time.time_ns()
            outcome, saved = await _first(self._outcome(generation), self._watch.changed())
            if saved is not None:
                await self._drop(generation)
                changed = saved or changed
            elif isinstance(outcome, Refused):
                await self._drop(generation)
                self._watch.replace([*self._watch.files, *outcome.files], since_ns=since_ns, with_new=True)
                self._refuse(outcome)
                return None
            else:
                self._watch.replace(outcome.files, since_ns=since_ns)
                self._saved_ms = since_ns // 1_000_000
                return generation, outcome

    async def _outcome(self, generation: Generation) -> Loaded | Refused:
        try:
            return await generation.load(self._dev.load)
        except CodeRefused as error:
            return error.refused

    def _refuse(self, refused: Refused) -> None:
        what = ": ".join(filter(None, [_relative(refused.place), " ".join(refused.text.split())]))
        is_running = self._current is not None and self._current in self._generations
        goes_on = f"the code saved at {at(self._saved_ms)} goes on" if is_running else "nothing runs until it is mended"
        _note("reload refused", f"{what}; {goes_on}", is_bad=True)
        if refused.source:
            number = refused.place.rpartition(":")[2]
            bar = "│" if is_unicode(err=True) else "|"
            echo(f"{number:>14} {bar} {refused.source.rstrip()}", err=True)

    # --- crashes

    async def _restart(self, how: str) -> None:
        """Start again after a generation has died, at once the first time, then later and later."""
        is_steady = time.monotonic() - self._opened_s > STEADY_S
        self._crashes = 0 if is_steady else self._crashes
        while True:
            delay_s = BACKOFF_S[min(self._crashes, len(BACKOFF_S) - 1)]
            self._crashes += 1
            again = f"again in {delay_s:g} s, or at the next save" if delay_s else "it is started again"
            _note("restart", f"{how}; {again}", is_bad=True)
            saved, _ = await _first(self._watch.changed(), asyncio.sleep(delay_s))
            found = await self._load(saved or [])
            while found is None:
                found = await self._load(await self._watch.changed())
            self._current = found[0]
            if await self._open(self._current):
                _note("restarted", "open runs go on")
                return
            how = await self._current.ended()
            self._forget(self._current)

    async def _open(self, generation: Generation) -> bool:
        """Let a generation serve; whether it does. Where not it ends, which is seen and told like any other end."""
        try:
            await generation.open()
        except SteplogError:
            return False
        self._opened_s = time.monotonic()
        return True

    # --- generations

    def _retry_now(self) -> bool:
        """Let what waits for its next attempt have it; whether a generation serves, to be told."""
        current = self._current
        if current is None or current not in self._generations:
            return False
        current.retry_now()
        return True

    async def _start(self) -> Generation:
        return await self._connect(spawn(self._sockets))

    async def _connect(self, spawned: Spawned) -> Generation:
        generation = Generation(spawned, on_stopping=self._stopping)
        self._generations.append(generation)
        try:
            await generation.connect()
        except BaseException:
            generation.kill_now()
            self._forget(generation)
            raise
        return generation

    async def _drop(self, generation: Generation) -> None:
        await generation.kill()
        self._forget(generation)

    def _forget(self, generation: Generation) -> None:
        if generation in self._generations:
            self._generations.remove(generation)

    async def _end(self, drain_s: float) -> None:
        """End every process, the one that serves in order."""
        self._is_ending = True
        for generation in list(self._generations):
            await generation.stop(drain_s)
        if self._dev.is_told:
            self._transcript.poll()
        for generation in list(self._generations):
            await generation.exited()
            self._forget(generation)

    def _stopping(self, executing: int) -> None:
        if self._is_ending and self._dev.is_told:
            echo(f"stopping: {counted(executing, 'step')} still at work; again to stop at once", err=True)


def _error_of(refused: Refused) -> SteplogError:
    """The error that the command ends with."""
    if refused.code == "user_code":
        text = f"{refused.place or 'it cannot be loaded'}: {refused.text}"
        error: SteplogError = UserCodeFailed("\n".join(filter(None, [text, refused.frames])))
    else:
        error = error_of(refused.code, refused.text)
    if refused.details:
        error.add_note(refused.details)
    return error


def _relative(place: str) -> str:
    """A place as seen from here, where it is below."""
    with suppress(ValueError):
        return str(Path(place).relative_to(Path.cwd()))
    return place


def _say(line: str) -> None:
    echo(line, err=True)


def _note(what: str, text: str, *, is_bad: bool = False) -> None:
    echo(f"{time.strftime('%H:%M:%S')}  {styled(what, fg='red' if is_bad else 'cyan', bold=True)}: {text}", err=True)


async def _until(task: "asyncio.Task[None]") -> None:
    await asyncio.wait({task})


async def _first(one: Awaitable[Any], other: Awaitable[Any]) -> tuple[Any, Any]:
    """Wait for the first of two; the other is cancelled, and its place is None."""
    tasks = [asyncio.ensure_future(one), asyncio.ensure_future(other)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    results = [None if task.cancelled() else task.result() for task in tasks]
    return results[0], results[1]
