"""What is sent to the shop on every log, and the journal that comes of it, without what differs by chance."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from steplog import Event
from steplog.drivers.config import LocalConfig
from steplog.drivers.loop import UsersLoop
from steplog.errors import EngineEnded, LogUnavailable
from steplog.node import DRAIN_S, Node, NodeConfig

from .places import Place, Record
from .shop import PARKED_AFTER_MS, Shop

SOON_S = 60.0
ENDS = ("run.completed", "run.failed")
TIMES = {"at", "until", "started", "ended", "retry_at", "due", "ts", "received_at"}
BY_CHANCE = TIMES | {"slot"}
HOUR_MS = 3_600_000


class World:
    """A node over a log, and what is known of it from the log alone."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.node: Node
        self.journal: list[Record] = []
        self.events: list[Record] = []

    async def follow(self) -> None:
        """Read on until cancelled."""
        while True:
            self.journal, self.events = await asyncio.to_thread(self._place.read)
            await asyncio.sleep(0.01)

    async def send(self, name: str, data: dict[str, Any], **fields: Any) -> str:
        """Send one event; returns its internal id."""
        (event,) = await self.node.send(Event(name=name, data=data, **fields))
        return event

    async def until(self, found: Callable[[], Any], what: str) -> None:
        """Wait for a condition of what was read."""
        deadline_s = time.monotonic() + SOON_S
        while not found():
            assert time.monotonic() < deadline_s, f"{what} did not come; the journal: {self.journal}"
            await asyncio.sleep(0.01)

    async def routed(self, event: str) -> list[str]:
        """Wait until it is known what has become of an event; returns its runs."""

        def found() -> list[Record]:
            return [r for r in self.journal if r["kind"] == "event.routed" and r["event"] == event]

        await self.until(found, f"the route of {event}")
        (record,) = found()
        return [run["run"] for run in record["runs"]]

    async def waits(self, function: str, step: str = "wait") -> None:
        """Wait until the one run of a function waits in a step."""

        def found() -> bool:
            waiting = [r for r in self.journal if r["kind"] == "step.waiting" and r["step"] == step]
            return any(self.function_of(r["run"]) == f"shop-{function}" for r in waiting)

        await self.until(found, f"step {step} of {function}")

    async def finished(self, event: str) -> None:
        """Wait for the end of the runs that an event has started."""
        runs = set(await self.routed(event))
        await self.until(lambda: runs <= self.ended, f"the end of {', '.join(runs)}")

    async def ends(self, function: str) -> None:
        """Wait for the end of the one run of a function."""

        def found() -> bool:
            return any(self.function_of(run) == f"shop-{function}" for run in self.ended)

        await self.until(found, f"the end of {function}")

    @property
    def ended(self) -> set[str]:
        """The runs that are over."""
        return {r["run"] for r in self.journal if r["kind"] in ENDS}

    async def over(self, name: str, data: dict[str, Any] | None = None, **fields: Any) -> None:
        """Send an event and wait for the end of what it has started."""
        await self.finished(await self.send(name, data or {}, **fields))

    def function_of(self, run: str) -> str:
        """The function of a run."""
        (function,) = [r["function"] for r in self.journal if r["kind"] == "run.scheduled" and r["run"] == run]
        return str(function)


# --- the stories


async def order(world: World) -> None:
    await world.over("order/placed", {"n": 7, "text": "é🦆"}, user={"id": 1}, v="2")


async def branches(world: World) -> None:
    await world.over("branches/placed")


async def plain(world: World) -> None:
    await world.over("plain/placed")


async def flaky(world: World) -> None:
    await world.over("flaky/placed")


async def broken(world: World) -> None:
    await world.over("broken/placed", {"n": 1})
    await world.ends("broken-failure")


async def paid(world: World) -> None:
    event = await world.send("paid/placed", {"order": "o1"})
    await world.waits("paid")
    await world.routed(await world.send("paid/paid", {"order": "o2"}))
    await world.over("paid/paid", {"order": "o1", "by": "card"})
    await world.finished(event)


async def both(world: World) -> None:
    event = await world.send("both/placed", {})
    await world.waits("both")
    await world.over("both/two", {"n": 2})
    await world.over("both/one", {"n": 1})
    await world.finished(event)


async def silence(world: World) -> None:
    await world.over("silence/placed")


async def approved(world: World) -> None:
    event = await world.send("approved/placed", {})
    await world.waits("approved")
    await world.over("approved/given")
    await world.finished(event)


async def caller(world: World) -> None:
    await world.over("caller/placed")


async def sender(world: World) -> None:
    await world.over("sender/placed")
    await world.ends("receiver")


async def once(world: World) -> None:
    for n in range(3):
        await world.over("once/placed", {"n": n}, id="the-one")


async def filtered(world: World) -> None:
    for n in (1, 2):
        await world.over("filtered/placed", {"n": n})


async def any_name(world: World) -> None:
    await world.over("any/one")


async def nobody(world: World) -> None:
    await world.over("nobody/placed", {"n": 1})


async def later(world: World) -> None:
    """It is not waited for: how long a busy machine needs until it routes the event is not known."""
    await world.routed(await world.send("later/placed", {}, ts=int(time.time() * 1_000) + HOUR_MS))


async def ledger(world: World) -> None:
    await world.over("ledger/placed")


STORIES: dict[str, Callable[[World], Awaitable[None]]] = {
    "order": order, "branches": branches, "plain": plain, "flaky": flaky, "broken": broken, "paid": paid, "both": both,
    "silence": silence, "approved": approved, "caller": caller, "sender": sender, "once": once, "filtered": filtered,
    "any": any_name, "nobody": nobody, "later": later, "ledger": ledger,
}  # fmt: skip


async def earlier(world: World, shop: Shop) -> None:
    """The event comes before the wait is there."""
    event = await world.send("earlier/placed", {})
    await world.routed(event)
    await world.routed(await world.send("earlier/came", {"n": 1}))
    shop.may_look_back.set()
    await world.finished(event)


async def parked(world: World, shop: Shop) -> None:
    """Nothing of the run is in memory when its event comes."""
    event = await world.send("parked/placed", {})
    await shop.is_parked.wait()
    await world.waits("parked")
    await world.over("parked/go-on", {"n": 1})
    await world.finished(event)


# --- a node that dies, one that stops, and one that ends it


class Played:
    """All stories of one log: what came of them, by story."""

    def __init__(self, world: World, shop: Shop, failures: dict[str, BaseException]) -> None:
        self.bodies, self.failures = shop.bodies, failures
        self.journal, self.events = normal(world.journal, world.events)


def play(place: Place, *, topic: str) -> Played:
    """Run every story on a log."""
    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        return runner.run(_play(place, Shop(topic=topic)))


async def _play(place: Place, shop: Shop) -> Played:
    world, failures = World(place), {}
    async with _node(place, world, shop, dies=True):
        told = {name: asyncio.ensure_future(tell(world)) for name, tell in STORIES.items()}
        told |= {tell.__name__: asyncio.ensure_future(tell(world, shop)) for tell in (earlier, parked)}
        killed = await world.send("killed/placed", {"n": 1}, id="killed-1")
        await world.waits("killed")
        await asyncio.wait(told.values())
        failures = {name: error for name, task in told.items() if (error := task.exception()) is not None}
    async with _node(place, world, shop):
        again = await world.send("killed/placed", {"n": 2}, id="killed-1")
        await world.routed(again)
        await world.over("killed/go-on", {"n": 3})
        await world.finished(killed)
        stopped = await world.send("stopped/placed", {"n": 1})
        await world.waits("stopped")
    async with _node(place, world, shop):
        await world.over("stopped/go-on", {"n": 2})
        await world.finished(stopped)
    return Played(world, shop, failures)


@asynccontextmanager
async def _node(place: Place, world: World, shop: Shop, *, dies: bool = False) -> AsyncIterator[None]:
    """A node over the log, and the world that follows it; it ends in order, or is killed."""
    local = LocalConfig(evict_after_ms=PARKED_AFTER_MS)
    config = NodeConfig(engine=place.config, local=local, drain_s=0 if dies else DRAIN_S)
    node = Node([shop.app], place.engine(shop.app), config)
    has_died = False
    try:
        async with node:
            world.node = node
            following = asyncio.ensure_future(world.follow())
            try:
                yield
            finally:
                following.cancel()
                if dies:
                    place.kill()
                    has_died = True
    except (EngineEnded, LogUnavailable):
        if not has_died:
            raise
    else:
        assert not dies, "the engine was not killed"


# --- what is compared


def normal(journal: list[Record], events: list[Record]) -> tuple[dict[str, list[Record]], list[Record]]:
    """The journal by run, and by event where it is of none, and the events, with names in place of ids and no times."""
    names = _names(journal, events)

    def named(record: Record) -> Record:
        text = msgspec.json.encode(record).decode()
        for id_, name in names.items():
            text = text.replace(id_, name)
        cleaned: Record = _without_chance(msgspec.json.decode(text))
        return cleaned

    owners: dict[str, list[Record]] = {}
    for record in journal:
        cleaned = named(record)
        owners.setdefault(cleaned.get("run") or cleaned["event"], []).append(cleaned)
    return dict(sorted(owners.items())), sorted([named(event) for event in events], key=lambda e: str(e["internal_id"]))


def _names(journal: list[Record], events: list[Record]) -> dict[str, str]:
    """A name for each id: of a run its function, of an event its own name; of one of steplog's own what it is about."""
    names: dict[str, str] = {}
    started: dict[str, str] = {}
    for record in journal:
        if record["kind"] == "run.scheduled":
            names[record["run"]] = _unused(f"<{record['function']}>", names)
            started |= dict.fromkeys(record["events"], record["function"])
    for event in sorted(events, key=lambda event: str(event["internal_id"])):
        name = event["name"]
        if name.startswith("inngest/"):
            name += f" of {event['data'].get('function_id') or started[event['internal_id']]}"
        names[event["internal_id"]] = _unused(f"<{name}>", names)
    return names


def _unused(name: str, names: dict[str, str]) -> str:
    taken = set(names.values())
    return next(each for each in _numbered(name) if each not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name[:-1]} {number}>"
        number += 1


def _without_chance(of: Any) -> Any:
    match of:
        case dict():
            return {key: 0 if key in BY_CHANCE else _without_chance(each) for key, each in of.items()}
        case list():
            return [_without_chance(each) for each in of]
    return of


def told(owners: dict[str, list[Record]]) -> str:
    """The journal for people, without what all records have and where code stands."""
    hidden = {"kind", "v", "env", "run", "seq", "event", "name", "id", *TIMES}
    lines = []
    for owner, records in owners.items():
        lines.append(owner)
        for record in records:
            shown = {field: each for field, each in record.items() if field not in hidden}
            if "error" in shown:
                shown["error"] = f"{shown['error']['name']}: {shown['error']['message']}"
            lines.append(f"    {record['kind']} {json.dumps(shown, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
