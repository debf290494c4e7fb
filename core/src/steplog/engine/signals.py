"""Which step waits for each signal: at most one (STEP-15). The owner of a signal is found by its name alone."""

import msgspec

from steplog.engine import effects, keys
from steplog.engine.draft import Draft, encode
from steplog.engine.ids import slot_of
from steplog.engine.messages import (
    Message,
    SignalAnswered,
    SignalAwaited,
    SignalHeard,
    SignalSent,
    WaitEnded,
    WaitForgotten,
)
from steplog.engine.operations import ErrorInfo

_waiter_decoder = msgspec.json.Decoder(tuple[bytes, bytes])  # run key, step


class Signals:
    """Brings signals to the steps that wait for them."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def tell(self, env: int, signal: str, message: Message) -> None:
        """Send a message to the owner of a signal."""
        self._draft.send(_slot(keys.signal(env, signal)), message)

    def forget(self, key: bytes, run: bytes, step: bytes) -> None:
        """Tell the owner of a signal, by its key, that a step does not wait for it any more."""
        self._draft.send(_slot(key), WaitForgotten(key=key, run=run, step=step))

    def answer(self, sent: SignalSent, run_id: str | None) -> None:
        """Tell whoever sent a signal which run it has resumed."""
        if sent.sender is not None:
            run, step = sent.sender
            self._draft.tell_run(run, WaitEnded(run=run, step=step, output=encode(run_id)))
        elif sent.ticket is not None:
            self.tell(sent.env, sent.signal, SignalAnswered(ticket=sent.ticket, run_id=run_id))

    # --- what the owner of a signal decides

    def wait(self, message: SignalAwaited) -> None:
        """Let a step wait; where one does so already, one of the two fails."""
        state, key = self._draft.state, keys.signal(message.env, message.signal)
        asking, waiter = (message.run, message.step), self._waiter(key)
        if waiter is not None and not message.replaces:
            self._refuse(asking, f"another step waits for the signal {message.signal!r} already")
            return
        if waiter is not None:
            self._refuse(waiter, f"another step has taken over the signal {message.signal!r}")
        state.put(key, encode(asking))

    def send(self, message: SignalSent) -> None:
        """Bring a signal to the step that waits for it."""
        key = keys.signal(message.env, message.signal)
        waiter = self._waiter(key)
        if waiter is None:
            self.answer(message, None)
            return
        self._draft.state.delete(key)
        run, step = waiter
        self._draft.tell_run(run, SignalHeard(run=run, step=step, sent=message))

    def answered(self, message: SignalAnswered) -> None:
        """Answer whoever waits outside."""
        self._draft.effects.append(effects.Answer(message.ticket, message.run_id))

    def forgotten(self, message: WaitForgotten) -> None:
        """A step does not wait any more, unless another has taken its place."""
        if self._waiter(message.key) == (message.run, message.step):
            self._draft.state.delete(message.key)

    def _waiter(self, key: bytes) -> tuple[bytes, bytes] | None:
        value = self._draft.state.get(key)
        return None if value is None else _waiter_decoder.decode(value)

    def _refuse(self, waiter: tuple[bytes, bytes], why: str) -> None:
        run, step = waiter
        self._draft.tell_run(run, WaitEnded(run=run, step=step, error=ErrorInfo(name="Error", message=why)))


def slot_of_signal(env: int, signal: str) -> int:
    """Where the owner of a signal decides."""
    return _slot(keys.signal(env, signal))


def _slot(key: bytes) -> int:
    return slot_of(keys.signal_hash(key))
