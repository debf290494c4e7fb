"""Sends numbered events until each is accepted, whatever happens to the server meanwhile."""

import http.client
import time
from collections.abc import Iterable
from typing import Protocol

from .server import Answer

AGAIN_S = 0.02


class Posts(Protocol):
    """A server, or several."""

    def post(self, events: object) -> Answer: ...


class Sender:
    """A client that sends again what has no answer; the event's id makes that safe."""

    def __init__(self, server: Posts, *, name: str = "order") -> None:
        self._server, self._name = server, name
        self.accepted: list[str] = []  # ids that got a 2xx, in order
        self.refused = self.unanswered = 0  # requests
        self.is_over = False

    def send(self, numbers: Iterable[int]) -> None:
        """Send one request, until it is accepted or all is over."""
        events = [{"name": self._name, "id": f"{self._name}-{n}", "data": {"n": n}} for n in numbers]
        while not self.is_over:
            try:
                answer = self._server.post(events)
            except (OSError, http.client.HTTPException):
                self.unanswered += 1
            else:
                if answer.status == 200:
                    assert len(answer.ids) == len(events)
                    self.accepted += [str(event["id"]) for event in events]
                    return
                assert answer.status in (429, 503), answer
                self.refused += 1
            time.sleep(AGAIN_S)
