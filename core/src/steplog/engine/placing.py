"""Which slot every key of the state, and every message between owners, belongs to (docs/architecture.md).

The engine knows where its own things are; this is for who moves a whole log. Invariant: with any number of partitions,
what is put where this says is what an engine there looks for.
"""

import msgspec

from steplog.engine import keys
from steplog.engine.ids import decode_ulid, run_slot, slot_of
from steplog.engine.messages import (
    EventMet,
    EventOffered,
    Message,
    SignalAwaited,
    SignalSent,
    WaitArmed,
    WaitForgotten,
)
from steplog.engine.signals import slot_of_signal
from steplog.engine.waits import slot_of_place

_decode_seen = msgspec.json.Decoder(tuple[str, int]).decode


def slot_of_key(key: bytes, value: bytes) -> int:
    """The slot of the owner of a key. Raises ``ValueError`` for one that is of a partition, or of no owner alone."""
    match key[0]:
        case keys.RUN | keys.ASK:
            return run_slot(key[5:21])
        case keys.TIMER:
            owner, step = keys.timer_owner(key)
            return slot_of(owner[5:]) if step == keys.CRON_TICK else run_slot(keys.run_id_of(owner))
        case keys.QUEUE | keys.LIVE | keys.ORPHAN:
            return run_slot(keys.run_id_of(keys.run_of(key)))
        case keys.SEEN:  # an event and the run that it has started are of one slot
            return run_slot(decode_ulid(_decode_seen(value)[0]))
        case keys.WAIT:
            return slot_of_place(key)
        case keys.SIGNAL:
            return slot_of(keys.signal_hash(key))
        case keys.CRON:
            return slot_of(keys.cron_hash(key))
    raise ValueError(f"{keys.printed(key)} has no slot")


def slot_of_message(message: Message) -> int | None:
    """The slot of the owner that a message is for; None for one that is of use in its process alone."""
    match message:
        case EventOffered(prefix=place) | WaitArmed(key=place):
            return slot_of_place(place)
        case WaitForgotten(key=key):
            return slot_of(keys.signal_hash(key)) if keys.is_signal(key) else slot_of_place(key)
        case SignalAwaited(env=env, signal=signal) | SignalSent(env=env, signal=signal):
            return slot_of_signal(env, signal)
    run = getattr(message, "run", None)
    return run_slot(keys.run_id_of(run)) if isinstance(run, bytes) else None


def with_origin(message: Message, partition: int, offset: int) -> Message:
    """A message about an event, which stands in another place now."""
    assert isinstance(message, EventOffered | EventMet), "other messages are of no event"
    return msgspec.structs.replace(message, origin=(partition, offset, message.origin[2]))
