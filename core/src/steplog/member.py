"""One process of a cluster: its partitions of a log on Kafka, as the server and the functions' process see them."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from steplog.clock import read_clocks
from steplog.engine import keys
from steplog.engine.effects import Answer, Effect, PartitionsLost, RunEnded
from steplog.engine.functions import DEFAULT_ENV, EngineConfig, FunctionSpec, Registry
from steplog.engine.ids import decode_ulid, run_slot
from steplog.engine.messages import EventAccepted, Message, OfRun, RetryNow, SignalSent
from steplog.engine.signals import slot_of_signal
from steplog.engine.state import Limits
from steplog.errors import LogUnavailable, Overloaded
from steplog.history.position import Position
from steplog.log.broker import BrokerError
from steplog.log.cache import FileCache
from steplog.log.client import KafkaClient
from steplog.log.encoding import decode_owner
from steplog.log.kafka import KafkaLog
from steplog.log.topics import STATE, TOMBSTONES_MS, Found, Layout, checked_ids, prepare
from steplog.partitions import Partitions
from steplog.paths import KafkaAddress

logger = logging.getLogger(__name__)

MOST_WAITING = 50_000  # messages; beyond it the edge answers 503
REGISTRY_S = 1.0  # between two looks at what every process knows, without the engine
TOLD_EVERY = 0.25  # of a long restore


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where a log on Kafka is, and what this process is to it."""

    brokers: str
    prefix: str
    partitions: int
    node: str  # a name that is stable over restarts, and no other process's
    data: str  # a directory for what can be read again
    replication: int | None = None  # None: three, where there are as many brokers
    client: Mapping[str, str] = {}  # further settings of the client library
    is_engine: bool = True
    address: str = ""  # where other nodes reach this one; without one it is ``host``, and the port that is bound
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """The log's address."""
        return KafkaAddress(self.brokers, self.prefix, tuple(self.client.items())).url


class Node(msgspec.Struct, frozen=True, array_like=True):
    """What the registry says of a process."""

    address: str


class Declared(msgspec.Struct, frozen=True, array_like=True):
    """What the registry says of an app: its functions, as the process that started last has them."""

    functions: tuple[FunctionSpec, ...]


APP, NODE, OWNER, TOPIC = b"app/", b"node/", b"owner/", b"topic/"  # keys of the registry
_decode_declared = msgspec.msgpack.Decoder(Declared).decode
_decode_node = msgspec.msgpack.Decoder(Node).decode
_decode_name = msgspec.msgpack.Decoder(str).decode


class Elsewhere(Exception):
    """Another process decides this, at ``address``."""

    def __init__(self, address: str) -> None:
        super().__init__(f"another process decides this: {address}")
        self.address = address


class Member:
    """Has the methods of ``turns.Turns``, over several partitions.

    ``deliver`` gets the effects that are meant for the users' loop.
    """

    def __init__(
        self, config: ClusterConfig, registry: Registry, engine: EngineConfig, *,
        deliver: Callable[[list[Effect]], None], on_lost: Callable[[LogUnavailable], None],
        on_found: Callable[[], None] = lambda: None, clocks: Callable[[], tuple[float, float]] = read_clocks,
    ) -> None:  # fmt: skip
        self._config, self._registry, self._engine = config, registry, engine
        self._deliver, self._on_lost, self._on_found, self._clocks = deliver, on_lost, on_found, clocks
        self._layout = Layout(config.prefix, config.partitions)
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._ended: dict[bytes, list[asyncio.Future[bool]]] = {}
        self._last_ticket = secrets.randbits(62)  # answers come to whoever has the partition then: none is another's
        self._appending = 0  # events
        self._declared: list[bytes] = []  # by apps
        self._tasks: set[asyncio.Task[None]] = set()
        self._silence: str | None = None  # of the cluster, without the engine
        self._client: KafkaClient | None = None
        self._log: KafkaLog
        self._partitions: Partitions

    async def open(self) -> None:
        """Make or check the topics, and connect. Raises ``LogUnavailable`` or ``TopicsInvalid``."""
        config = self._config
        settings = client_settings(config)
        found = await asyncio.to_thread(_prepare, settings, self._layout, config.replication)
        self.record_bytes = found.message_bytes
        client = self._client = KafkaClient(settings, self._layout, config.node, message_bytes=found.message_bytes)
        origin = f"{found.cluster_id}/{found.topic_ids[STATE]}"

        @cache
        def open_cache(partition: int) -> FileCache:
            return FileCache(Path(config.data, f"{config.prefix}-{partition}.db"), origin)

        self._log = log = KafkaLog(
            client, config.node, open_cache, partitions=config.partitions, now_ms=self.now_ms,
            tombstones_ms=TOMBSTONES_MS, on_progress=_Progress().tell,
        )  # fmt: skip
        self._partitions = Partitions(
            log, client.events, self._registry, self._engine, config.partitions, deliver=self._release,
            on_lost=self._lose, on_found=self._on_found, on_registry=self._learn,
            limits=_limits(config.partitions), clocks=self._clocks,
        )  # fmt: skip
        try:
            await log.read_registry()
            checked_ids(_ids_in(log.registry), found, self._layout)
            await log.announce()
            for topic, id_ in found.topic_ids.items():
                await log.register(TOPIC + topic.encode(), msgspec.msgpack.encode(id_))
            node = Node(config.address)
            await log.register(NODE + config.node.encode(), msgspec.msgpack.encode(node))
            for app, functions in self._apps().items():
                value = msgspec.msgpack.encode(Declared(tuple(functions)))
                if log.registry.get(APP + app.encode()) != value:
                    await log.register(APP + app.encode(), value)
            await log.read_registry()
            self._learn(log.registry)
        except BrokerError as error:
            raise LogUnavailable(f"Kafka: {error}") from error

    async def run(self) -> None:
        """Take part until cancelled. Without the engine, only keep up with what every process knows."""
        if self._config.is_engine:
            await self._partitions.run()
        while True:
            await asyncio.sleep(REGISTRY_S)
            try:
                await self._log.read_registry()
                self._learn(self._log.registry)
                self._silence = None
            except BrokerError as error:  # it is asked again, and whoever needs it now reads it
                self._silence = f"Kafka: {error}"

    async def joined(self, timeout_s: float) -> None:
        """Wait until it is known which partitions are decided here, not for ever: others may hold that up."""
        if self._config.is_engine:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._partitions.has_joined.wait()

    async def finish(self) -> None:
        """Hand back in order what is in flight, and leave the group."""
        client, self._client = self._client, None
        if client is None:
            return
        try:
            await self._partitions.finish()
        finally:
            await client.close()

    def now_ms(self) -> int:
        """The time."""
        return int(self._clocks()[0])

    def post(self, messages: Sequence[Message]) -> None:
        """Give owners messages. Those for owners that are not here any more are dropped."""
        events: list[EventAccepted] = []
        of_runs: list[OfRun] = []
        for message in messages:
            if isinstance(message, EventAccepted):
                events.append(message)
            elif isinstance(message, RetryNow):
                self._partitions.post_to_all(message)
            elif isinstance(message, SignalSent):
                self._partitions.post(slot_of_signal(message.env, message.signal), message)
            else:
                of_runs.append(message)  # type: ignore[arg-type]  # there is nothing else that a driver says
        if of_runs:
            self._partitions.post_to_runs(of_runs)
        if events:
            self._start(self._accept(events))

    async def submit(self, events: Sequence[EventAccepted]) -> Mapping[Any, int]:
        """Write events; returns the offset behind the last one in each place.

        Raises ``Overloaded`` where too much waits, ``LogUnavailable`` where the cluster does not answer.
        """
        if not events:
            return {}
        self._check_room(len(events))
        self._appending += len(events)
        try:
            return await self._log.append(list(events))
        except BrokerError as error:
            raise LogUnavailable(f"Kafka: {error}; send again later") from error
        finally:
            self._appending -= len(events)

    async def signal(self, name: str, data: bytes) -> str | None:
        """Resume the step that waits for a signal; returns its run's id, None where nobody waits."""
        self._check_room(1)
        self._last_ticket += 1
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[self._last_ticket] = answer
        sent = SignalSent(env=DEFAULT_ENV, signal=name, data=data, ticket=self._last_ticket)
        slot = slot_of_signal(DEFAULT_ENV, name)
        if not self._partitions.post(slot, sent):
            del self._answers[self._last_ticket]
            raise await self._elsewhere(slot)
        return (await answer).run_id

    async def _elsewhere(self, slot: int) -> Exception:
        """The error that says which process decides for a slot."""
        try:
            await self._log.read_registry()
        except BrokerError as error:
            return LogUnavailable(f"Kafka: {error}; send again later")
        registry = self._log.registry
        owner = registry.get(OWNER + b"%d" % (slot % self._config.partitions))
        name = None if owner is None else decode_owner(owner).node
        node = None if name is None else registry.get(NODE + name.encode())
        if node is None or name == self._config.node:
            return LogUnavailable("the partition moves from one process to another; send again later")
        return Elsewhere(_decode_node(node).address)

    def is_function(self, function: str) -> bool:
        """Whether a function, by its qualified id, is registered."""
        return function in self._registry.by_id

    @property
    def problem(self) -> str | None:
        """What keeps it from its work, if anything does."""
        return "it is not connected to Kafka" if self._client is None else self._silence or self._partitions.problem

    async def wait_ended(self, run_id: str, timeout_s: float) -> bool:
        """Return when a run has ended, or the time is up; at once for one that is not open.

        False where another process decides the run, and knows when it ends.
        """
        key = keys.run(DEFAULT_ENV, decode_ulid(run_id))
        is_open = self._partitions.is_open(key)
        if is_open is None:
            return False
        if not is_open:
            await self._partitions.settled(key)
            return True
        ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._ended.setdefault(key, []).append(ended)
        try:
            async with asyncio.timeout(timeout_s):
                return await ended
        except TimeoutError:
            return True

    async def are_open(self, run_keys: Sequence[bytes]) -> list[bool]:
        """Whether each of some runs is open here."""
        return [bool(self._partitions.is_open(key)) for key in run_keys]

    @property
    def reached(self) -> Position:
        """How far what was written here reaches in the topics that the history is made from."""
        return Position.of({f"{place.topic}/{place.partition}": end for place, end in self._log.reached.items()})

    @property
    def is_available(self) -> bool:
        return self._client is not None

    @property
    def owned(self) -> Sequence[int]:
        """The partitions that are decided here."""
        return self._partitions.owned

    def _apps(self) -> dict[str, list[FunctionSpec]]:
        """The functions of this process, by their apps."""
        apps: dict[str, list[FunctionSpec]] = {}
        for function in self._registry.own:
            apps.setdefault(function.app, []).append(function)
        return apps

    def _learn(self, registry: Mapping[bytes, bytes]) -> bool:
        """Know the functions that others have declared; returns whether there are others than before."""
        declared = [value for key, value in registry.items() if key.startswith(APP)]
        if declared == self._declared:
            return False
        self._declared = declared
        self._registry.learn([function for value in declared for function in _decode_declared(value).functions])
        return True

    def _check_room(self, count: int) -> None:
        waiting = self._appending + self._partitions.waiting
        if waiting + count > MOST_WAITING:
            raise Overloaded(f"{waiting} messages wait, the limit is {MOST_WAITING}; send again later")

    async def _accept(self, events: Sequence[EventAccepted]) -> None:
        """Write events of the functions' process, which waits for the answer."""
        try:
            await self._log.append(list(events))
        except BrokerError as error:
            self._on_lost(LogUnavailable(f"Kafka: {error}"))
            return
        tickets = [event.ticket for event in events if event.ticket is not None]
        if tickets:
            self._deliver([Answer(ticket) for ticket in tickets])

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _release(self, effects: list[Effect]) -> None:
        outside: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Answer) and effect.ticket > 0:
                answer = self._answers.pop(effect.ticket, None)
                if answer is not None and not answer.done():
                    answer.set_result(effect)
                continue
            if isinstance(effect, RunEnded) and effect.run in self._ended:
                self._tell_ended(effect.run, is_over=True)
            outside.append(effect)
        if outside:
            self._deliver(outside)

    def _tell_ended(self, run: bytes, *, is_over: bool) -> None:
        for ended in self._ended.pop(run, ()):
            if not ended.done():
                ended.set_result(is_over)

    def _lose(self, partitions: Collection[int], why: LogUnavailable | None) -> None:
        """What was in flight in some partitions is dropped here."""
        if why is not None:
            self._on_lost(why)
        else:
            self._deliver([PartitionsLost(tuple(partitions), self._config.partitions)])
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(why or LogUnavailable("the partition moves to another process; send again"))
        for run in [
            run for run in self._ended if run_slot(keys.run_id_of(run)) % self._config.partitions in partitions
        ]:
            self._tell_ended(run, is_over=False)


class _Progress:
    """Says how far a long restore is."""

    def __init__(self) -> None:
        self._told: dict[int, float] = {}

    def tell(self, partition: int, read: int, total: int) -> None:
        share = read / total
        if total > 50_000 and share - self._told.get(partition, 0.0) >= TOLD_EVERY:
            self._told[partition] = share
            logger.info("partition %d: %d %% of %d records of its state read", partition, round(100 * share), total)


def client_settings(config: ClusterConfig) -> dict[str, Any]:
    """The settings of every client of the cluster."""
    return {
        "bootstrap.servers": config.brokers, "client.id": f"steplog-{config.node}", "log_level": 2,
        "socket.keepalive.enable": True, "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 1000,
        "topic.metadata.propagation.max.ms": 5000,
        # With the other strategy a transaction was seen to wait for ever, whatever its time-out, after all connections
        # had been reset (2.16); it seems to keep handles of brokers that were dropped.
        "metadata.recovery.strategy": "none", **config.client,
    }  # fmt: skip


def _prepare(settings: Mapping[str, Any], layout: Layout, replication: int | None) -> Found:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    heard: list[KafkaError] = []
    options: dict[str, Any] = {**settings, "error_cb": heard.append}
    admin = AdminClient(options)
    try:
        return prepare(admin, layout, replication)
    except KafkaException as error:
        admin.poll(0)
        refusals = [each for each in heard if each.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL)]
        reason = (refusals or [error.args[0]])[-1].str()  # the call itself has only waited in vain
        servers = settings["bootstrap.servers"]
        raise LogUnavailable(f"no Kafka broker answers at {servers}: {reason}") from error


def _limits(partitions: int) -> Limits:
    """The overlay of all partitions together is as large as that of one."""
    whole = Limits()
    return Limits(
        pending_keys=max(whole.slice_keys, whole.pending_keys // partitions), redo_bytes=whole.redo_bytes // partitions
    )


def _ids_in(registry: Mapping[bytes, bytes]) -> dict[str, str]:
    return {key[len(TOPIC) :].decode(): _decode_name(value) for key, value in registry.items() if key.startswith(TOPIC)}
