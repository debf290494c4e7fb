"""Times that messages name are the wall clock's: a partition goes by its own."""

import msgspec

from steplog.clock import PartitionClock
from steplog.engine.messages import EventAccepted, Message, OpReported
from steplog.engine.operations import Sleep


def translated(message: Message, clock: PartitionClock) -> Message:
    """Put the times of the wall clock that a message asks for in the partition's: nothing starts early or late."""
    match message:
        case EventAccepted(ts_ms=ts_ms, received_ms=received_ms):  # without a time of its own it starts at once
            return msgspec.structs.replace(message, ts_ms=0 if ts_ms == received_ms else clock.told_ms(ts_ms))
        case OpReported(op=Sleep(until_ms=int(until_ms))):
            return msgspec.structs.replace(message, op=Sleep(until_ms=clock.told_ms(until_ms)))
        case _:
            return message
