"""The topics of a log that agents read. Records that make no sense are passed over, with a warning that says where."""

import logging
from collections.abc import Callable
from typing import Any

import faust
import msgspec
from faust.exceptions import ValueDecodeError
from faust.types import Message

from steplog_faust.application import App
from steplog_faust.records import decode_event, decode_record

logger = logging.getLogger(__name__)


class _Schema(faust.Schema[Any, Any]):
    """The key as text, the value by a decoder of msgspec's."""

    def __init__(self, decode: Callable[[bytes], Any]) -> None:
        super().__init__(key_type=str, value_type=bytes, key_serializer="raw", value_serializer="raw")
        self._decode = decode

    def loads_key(self, app: Any, message: Message, **_: Any) -> str | None:
        return None if message.key is None else message.key.decode("utf8", "replace")

    def loads_value(self, app: Any, message: Message, **_: Any) -> Any:
        if message.value is None:
            raise ValueDecodeError("it has no value")
        try:
            return self._decode(message.value)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueDecodeError(str(error)) from error


class _Topic(faust.Topic):
    async def on_value_decode_error(self, exc: Exception, message: Message) -> None:
        """Tell it and go on; Faust would end the agent with it."""
        logger.warning("passed over %s/%s/%s: %s", message.topic, message.partition, message.offset, exc)


def events(app: App) -> faust.Topic:
    """The accepted events: values are ``Event``, keys the events' ids."""
    return _topic(app, "events", decode_event)


def journal(app: App) -> faust.Topic:
    """What happened: values are ``Record``, keys the ids of runs, or of events for ``EventRouted``.

    The records of a run come in the order of their ``seq``.
    """
    return _topic(app, "journal", decode_record)


def _topic(app: App, name: str, decode: Callable[[bytes], Any]) -> faust.Topic:
    full = app.log_address.topic(name)
    app.log_topics.add(full)
    return _Topic(app, topics=[full], schema=_Schema(decode))
