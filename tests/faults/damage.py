"""Bytes of a log change on the disk (fault C4)."""

import asyncio
import contextlib
import random
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

from steplog import App, Context, Event
from steplog.drivers.loop import UsersLoop
from steplog.errors import LogCorrupt, LogUnavailable
from steplog.history.audit import audit
from steplog.log.sqlite import SqliteLog
from steplog.node import Node, NodeConfig

PAGE, SECTOR = 4096, 512
START, AUDIT, NEVER = "at the start", "by the audit", "never: nothing that is read was hit"
app = App("shop")


@app.function(trigger="order")
async def ship(ctx: Context) -> str:
    one: str = await ctx.step.run("one", effect, ctx.event.data["n"])
    if ctx.event.data["n"] % 3 == 0:
        await ctx.step.sleep("nap", 86_400_000)
    return one


async def effect(n: int) -> str:
    return f"{n} " * 100


async def write(path: Path) -> None:
    async with Node([app], lambda: SqliteLog(path), NodeConfig(drain_s=0.2)) as node:
        for n in range(60):
            event = Event(name="order", data={"n": n})
            await (node.send(event) if n % 3 == 0 else node.run(event))


def damage_often(folder: Path, *, seed: int, damages: int) -> dict[str, int]:
    """Damage a log, many times; returns how often it showed where. Fails where it never does."""
    chance, found = random.Random(seed), Counter[str]()
    sound = folder / "sound" / "log.db"
    with asyncio.Runner(loop_factory=UsersLoop) as runner:
        runner.run(write(sound))
    load(sound)  # so that its state is in the table
    assert audit(sound, is_deep=True).is_clean
    before, path = content(sound), folder / "log.db"
    for _ in range(damages):
        shutil.copy(sound, path)
        for suffix in ("-wal", "-shm", ".head"):
            path.with_name(f"log.db{suffix}").unlink(missing_ok=True)
        how = damage(path, chance)
        found[noticed(path, before, how)] += 1
    assert found[START] > 0
    assert found[AUDIT] > 0
    return dict(found)


def load(path: Path) -> None:
    """Read everything that an engine may ever read."""
    log = SqliteLog(path)
    try:
        asyncio.run(log.load()).table.scan(b"", b"\xff", 1 << 30)
    finally:
        log.close()


def content(path: Path) -> list[list[tuple[object, ...]]]:
    connection = sqlite3.connect(path)
    names = ("meta", "redo", "journal", "events", "state")
    found = [connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in names]
    connection.close()
    return found


def damage(path: Path, chance: random.Random) -> str:
    """Flip a bit, or write a sector or a page that belongs elsewhere; returns what was done.

    A page that is free is not written elsewhere: it may be an older version of the very page, which looks sound.
    """
    data = bytearray(path.read_bytes())
    kind = chance.choice(("bit", "bit", "sector", "page"))
    if kind == "bit":
        place = chance.randrange(len(data))
        data[place] ^= 1 << chance.randrange(8)
    else:
        size = SECTOR if kind == "sector" else PAGE
        place = chance.randrange(len(data) // size) * size
        free = free_pages(bytes(data))
        other = chance.choice([at for at in range(0, len(data), size) if at // PAGE not in free])
        data[place : place + size] = data[other : other + size] if chance.random() < 0.5 else bytes(size)
    path.write_bytes(data)
    return f"{kind} at {place}"


def free_pages(data: bytes) -> set[int]:
    """The numbers of the pages that SQLite has free, from 0 on (its file format, 1.5)."""
    found: set[int] = set()
    trunk = int.from_bytes(data[32:36], "big")
    while trunk:
        page = data[(trunk - 1) * PAGE : trunk * PAGE]
        trunk_at, trunk, count = trunk - 1, int.from_bytes(page[:4], "big"), int.from_bytes(page[4:8], "big")
        found |= {trunk_at, *[int.from_bytes(page[8 + 4 * n : 12 + 4 * n], "big") - 1 for n in range(count)]}
    return found


def noticed(path: Path, before: object, how: str) -> str:
    """How the damage shows. Fails where it does not."""
    damaged = path.read_bytes()
    try:
        load(path)
    except (LogCorrupt, LogUnavailable) as error:
        said, is_newer = str(error), isinstance(error, LogUnavailable)
    else:
        said, is_newer = "", False
    if said:
        assert str(path) in said
        assert ("newer steplog" if is_newer else "Restore it from a backup") in said, how
        return START
    path.write_bytes(damaged)
    try:
        report = audit(path, is_deep=True)
    except LogCorrupt:
        return AUDIT
    if not report.is_clean:
        return AUDIT
    copy = path.with_name("copy.db")  # what a reader has left beside the log is not its content
    copy.write_bytes(damaged)
    with contextlib.suppress(sqlite3.Error):
        assert content(copy) == before, how
        return NEVER
    raise AssertionError(how)
