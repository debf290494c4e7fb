"""What the keys do while ``steplog dev`` runs."""

import asyncio
import http.client
import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import msgspec

from steplog.cli.dev.transcript import Transcript
from steplog.cli.lines import LEVELS, shown
from steplog.cli.output import echo

SEND_S = 30.0  # a reload and a start may lie between

_KEYS = (
    "s send the last event again · r try again now what waits for its next attempt · "
    "l level: all, runs or problems · ? keys · Ctrl-C stop, twice at once"
)


class Controls:
    """Takes keys, on the parent's loop. ``retry_now`` says whether there was somebody to tell."""

    def __init__(self, url: str, transcript: Transcript, retry_now: Callable[[], bool]) -> None:
        self._url, self._transcript, self._retry_now = url, transcript, retry_now
        self._sending: set[asyncio.Task[None]] = set()

    def press(self, key: str) -> None:
        """Do what a key stands for; others do nothing."""
        match key:
            case "s":
                task = asyncio.get_running_loop().create_task(self._send_again())
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
            case "r":
                is_told = self._retry_now()
                what = "what waits for its next attempt has it now" if is_told else "nothing runs at the moment"
                echo(f"  {what}", err=True)
            case "l":
                lines = self._transcript.lines
                lines.level = LEVELS[(LEVELS.index(lines.level) + 1) % len(LEVELS)]
                echo(f"  shown from now on: {lines.level}", err=True)
            case "?":
                echo(f"  {_KEYS}", err=True)

    async def _send_again(self) -> None:
        event = self._transcript.last_event
        if event is None:
            echo("  no event was sent yet: steplog send shop/order.placed '{}'", err=True)
            return
        try:
            id_ = await asyncio.to_thread(_post, self._url, {"name": event.name, "data": event.data})
        except (OSError, http.client.HTTPException, ValueError) as error:
            echo(f"  {event.name} was not sent: {error}", err=True)
        else:
            echo(f"  {event.name} sent again: {shown(id_)}", err=True)


def _post(url: str, event: dict[str, Any]) -> str:
    """Send an event; returns its internal id. Raises ``ValueError`` with what the server says against it."""
    address = url.removeprefix("http://")
    with closing(http.client.HTTPConnection(address, timeout=SEND_S)) as connection:
        connection.request("POST", "/e/dev", msgspec.json.encode(event), {"content-type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    if not answer.get("ids"):
        raise ValueError(answer.get("error", "it was refused"))
    return str(answer["ids"][0])
