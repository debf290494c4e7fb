"""Calls that another node has to answer go there by HTTP, and its answer comes back."""

import aiohttp
import msgspec

from steplog.errors import LogUnavailable
from steplog.signing import hashed_key

HEADER = "x-steplog-forwarded"  # such a call is not forwarded again: a node that does not decide it says 421
ANSWER_S = 15.0


class _Resumed(msgspec.Struct):
    run_id: str


_decode_resumed = msgspec.json.Decoder(_Resumed).decode


class Forwarding:
    """``signing_key`` is one that all nodes of the cluster have; ``None`` in ``dev``."""

    def __init__(self, signing_key: str | None) -> None:
        key = None if signing_key is None else hashed_key(signing_key) or signing_key
        self._headers = {HEADER: "1"} | ({} if key is None else {"authorization": f"Bearer {key}"})

    async def signal(self, address: str, name: str, data: bytes) -> str | None:
        """Send a signal by the node at ``address``; returns the run that it resumes, None where nobody waits.

        Raises ``LogUnavailable``.
        """
        body = msgspec.json.encode({"signal": name, "data": msgspec.Raw(data)})
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.post(f"http://{address}/v1/signals", data=body) as answer,
            ):
                if answer.status == 404:
                    return None
                text = await answer.read()
                if answer.status == 200:
                    return _decode_resumed(text).run_id
                problem = f"{answer.status}: {text[:200].decode(errors='replace')}"
        except (aiohttp.ClientError, TimeoutError) as error:
            problem = str(error) or type(error).__name__
        raise LogUnavailable(f"the node that decides this, {address}, did not: {problem}; send again later")
