"""The layout of the state: one ordered space of binary keys, built here and nowhere else.

A key is a kind (one byte) and then its components in the order in which it is scanned, each of fixed width:
environment 4, ULID 16, hash 16, number 8 (big-endian). User text never stands in a key; a hash of it does. So the order
of keys is the order of their components, and the scan of one owner's prefix never meets another owner's key.
"""

from steplog.engine.ids import encode_ulid, hash16

RUN = 0x10  # run/<env>/<run>[/event/<n> | /step/<hash>]
TIMER = 0x20  # timer/<due>/<env>/<run>/<step hash, or zeros for the run's own>
QUEUE = 0x30  # queue/<rank>/<env>/<run>: runs that wait for a free place among the live ones
LIVE = 0x40  # live/<env>/<run>: one a dispatch in flight
SEEN = 0x50  # seen/<env>/<day>/<hash of function, event id>
ORPHAN = 0x60  # orphan/<env>/<hash of function>/<run>: open runs whose function is not registered here
WAIT = 0x80  # wait/<env>/<name>/<path>/<value>/<run>/<step>: hashes; a step that waits for an event
PATH = 0x90  # path/<env>/<name>/<path>: hashes; where the events of a name are looked into for waits
SIGNAL = 0xA0  # signal/<env>/<hash>: the step that waits for a signal
CRON = 0xB0  # cron/<env>/<hash of function>: the tick that is planned next
FUNCTION = 0xC0  # function/<env>/<hash>: its version, and the configuration that has it
MAIL = 0xD0  # mail/<turn>/<n>[/event]: an event, by its place, whose waits have not all been held against it
ASK = 0xE0  # ask/<env>/<run>/<step>: a wait that looks back, and has not been told what came before
NODE = 0x70  # node/<name>: facts of the processor itself

_EVENT, _STEP = b"\x01", b"\x02"
_RUN = bytes([RUN])
_TIMER = bytes([TIMER])
_QUEUE = bytes([QUEUE])
_LIVE = bytes([LIVE])
_SEEN = bytes([SEEN])
_ORPHAN = bytes([ORPHAN])
_WAIT = bytes([WAIT])
_PATH = bytes([PATH])
_SIGNAL = bytes([SIGNAL])
_CRON = bytes([CRON])
_FUNCTION = bytes([FUNCTION])
_MAIL = bytes([MAIL])
_ASK = bytes([ASK])

WAIT_PREFIX_BYTES = 53  # of wait/<env>/<name>/<path>/<value>
MAIL_BYTES = 17  # of mail/<turn>/<n>
NO_PATH = bytes(16)  # stands for path and value of a wait for any event of a name
NO_STEP = bytes(16)  # stands in a timer's key for the run itself
CRON_TICK = b"\xff" * 16  # stands there for the crons of a function, whose hash is in the place of the run
DRAINED = bytes([NODE]) + b"drained"
HEAD = bytes([NODE]) + b"head"  # turn and time of the last commit, where the log has no place of its own for them
CARRIED = bytes([NODE]) + b"carried/"  # carried/<n>: messages that a log which was moved here had not decided
DAY_MS = 86_400_000


def number(value: int) -> bytes:
    """Write a number in 8 bytes that sort like it."""
    return value.to_bytes(8, "big")


def run(env: int, run_id: bytes) -> bytes:
    """``run/<env>/<run>``; the prefix of everything the run owns."""
    return _RUN + env.to_bytes(4, "big") + run_id


def run_event(run_key: bytes, index: int) -> bytes:
    """``run/…/event/<n>``."""
    return run_key + _EVENT + index.to_bytes(8, "big")


def run_step(run_key: bytes, step: bytes) -> bytes:
    """``run/…/step/<hash>``."""
    return run_key + _STEP + step


def is_step(key: bytes) -> bool:
    """Whether a key below a run's prefix is one of its steps."""
    return key[21:22] == _STEP


def step_of(key: bytes) -> bytes:
    """Read the hash of ``run/…/step/<hash>``."""
    return key[22:]


def timer(due_ms: int, run_key: bytes, step: bytes) -> bytes:
    """``timer/<due>/<env>/<run>/<step>``; due timers are a scan from the first to now."""
    return _TIMER + due_ms.to_bytes(8, "big") + run_key[1:] + step


def timer_due_ms(key: bytes) -> int:
    """Read when a timer is due."""
    return int.from_bytes(key[1:9], "big")


def timer_owner(key: bytes) -> tuple[bytes, bytes]:
    """Read a timer's run key and step hash."""
    return _RUN + key[9:29], key[29:]


def queue(run_key: bytes) -> bytes:
    """``queue/<rank>/<env>/<run>``; the rank is the time of the run's id, so that its place is found from the run."""
    return _QUEUE + b"\0\0" + run_key[5:11] + run_key[1:]


def live(run_key: bytes) -> bytes:
    """``live/<env>/<run>``."""
    return _LIVE + run_key[1:]


def seen(env: int, day: int, function: str, event_id: str) -> bytes:
    """``seen/<env>/<day>/<hash>``; the window of duplicates of one function and one event id."""
    return seen_day(env, day) + hash16(function.encode(), event_id.encode("utf8", "surrogatepass"))


def seen_day(env: int, day: int) -> bytes:
    """``seen/<env>/<day>``."""
    return _SEEN + env.to_bytes(4, "big") + day.to_bytes(8, "big")


def seen_day_of(key: bytes) -> int:
    """Read the day of ``seen/…``."""
    return int.from_bytes(key[5:13], "big")


def seen_env(env: int) -> bytes:
    """``seen/<env>``."""
    return _SEEN + env.to_bytes(4, "big")


def orphans(env: int, function: str) -> bytes:
    """``orphan/<env>/<hash of function>``."""
    return _ORPHAN + env.to_bytes(4, "big") + hash16(function.encode())


def orphan(function: str, run_key: bytes) -> bytes:
    """``orphan/<env>/<hash of function>/<run>``."""
    return _ORPHAN + run_key[1:5] + hash16(function.encode()) + run_key[5:]


def waits(env: int, name: bytes, path: bytes, value: bytes) -> bytes:
    """``wait/<env>/<name>/<path>/<value>``, of hashes; all waits that an event with this value may end."""
    return _WAIT + env.to_bytes(4, "big") + name + path + value


def wait(prefix: bytes, run_key: bytes, step: bytes) -> bytes:
    """``wait/…/<run>/<step>``."""
    return prefix + run_key[5:21] + step


def wait_owner(key: bytes) -> tuple[bytes, bytes]:
    """Read a wait's run key and step hash."""
    return _RUN + key[1:5] + key[53:69], key[69:]


def paths(env: int) -> bytes:
    """``path/<env>``."""
    return _PATH + env.to_bytes(4, "big")


def path(env: int, name: bytes, path: bytes) -> bytes:
    """``path/<env>/<name>/<path>``, of hashes."""
    return _PATH + env.to_bytes(4, "big") + name + path


def signal(env: int, name: str) -> bytes:
    """``signal/<env>/<hash>``."""
    return _SIGNAL + env.to_bytes(4, "big") + hash16(name.encode("utf8", "surrogatepass"))


def is_signal(key: bytes) -> bool:
    """Whether a key is of a signal."""
    return key[0] == SIGNAL


def signal_hash(key: bytes) -> bytes:
    """Read the hash of ``signal/…``."""
    return key[5:]


def cron(env: int, function: str) -> bytes:
    """``cron/<env>/<hash of function>``."""
    return _CRON + env.to_bytes(4, "big") + hash16(function.encode())


def cron_hash(key: bytes) -> bytes:
    """Read the hash of ``cron/…``."""
    return key[5:]


def mail(turn: int, index: int) -> bytes:
    """``mail/<turn>/<n>``."""
    return _MAIL + turn.to_bytes(8, "big") + index.to_bytes(8, "big")


def mail_place(key: bytes) -> tuple[int, int]:
    """Read the turn and the number of ``mail/…``."""
    return int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:17], "big")


def mail_event(mail_key: bytes) -> bytes:
    """``mail/<turn>/<n>/event``."""
    return mail_key + _EVENT


def ask(run_key: bytes, step: bytes) -> bytes:
    """``ask/<env>/<run>/<step>``."""
    return _ASK + run_key[1:] + step


def ask_owner(key: bytes) -> tuple[bytes, bytes]:
    """Read the run key and the step hash of ``ask/…``."""
    return _RUN + key[1:21], key[21:]


def cron_timer(due_ms: int, cron_key: bytes) -> bytes:
    """The timer of a function's crons."""
    return timer(due_ms, cron_key, CRON_TICK)


def cron_of(owner: bytes) -> bytes:
    """Read the cron key of the owner that stands in such a timer."""
    return _CRON + owner[1:]


def position(topic: str) -> bytes:
    """``position/<topic>``: how far a partition's input has been decided."""
    return bytes([NODE]) + b"position/" + topic.encode()


def carried(index: int) -> bytes:
    """``carried/<n>``."""
    return CARRIED + index.to_bytes(8, "big")


def function(env: int, function_id: str) -> bytes:
    """``function/<env>/<hash>``."""
    return _FUNCTION + env.to_bytes(4, "big") + hash16(function_id.encode())


def run_of(key: bytes) -> bytes:
    """Read the run key that a ``queue``, ``live`` or ``orphan`` key ends with."""
    match key[0]:
        case 0x30:
            return _RUN + key[9:29]
        case 0x40:
            return _RUN + key[1:21]
        case _:
            assert key[0] == ORPHAN, "only queue, live and orphan keys end with a run"
            return _RUN + key[1:5] + key[21:37]


def env_of(run_key: bytes) -> int:
    """Read the environment of a run key."""
    return int.from_bytes(run_key[1:5], "big")


def run_id_of(run_key: bytes) -> bytes:
    """Read the run's id of a run key."""
    return run_key[5:21]


def after(prefix: bytes) -> bytes:
    """The least key that is greater than every key with this prefix."""
    body = prefix.rstrip(b"\xff")
    assert body, "a prefix begins with its kind, which is not 255"
    return body[:-1] + bytes([body[-1] + 1])


def printed(key: bytes) -> str:
    """Write a key so that a person can read it, for tools and errors."""
    match key[0]:
        case 0x10:
            text = f"run/{env_of(key)}/{encode_ulid(key[5:21])}"
            if key[21:22] == _EVENT:
                return f"{text}/event/{int.from_bytes(key[22:], 'big')}"
            return f"{text}/step/{key[22:].hex()}" if is_step(key) else text
        case 0x20:
            owner, step = timer_owner(key)
            return f"timer/{timer_due_ms(key)}/{printed(owner)}/{step.hex()}"
        case 0x30:
            return f"queue/{int.from_bytes(key[1:9], 'big')}/{printed(run_of(key))}"
        case 0x40:
            return f"live/{printed(run_of(key))}"
        case 0x50:
            return f"seen/{int.from_bytes(key[1:5], 'big')}/{int.from_bytes(key[5:13], 'big')}/{key[13:].hex()}"
        case 0x60:
            return f"orphan/{key[5:21].hex()}/{printed(run_of(key))}"
        case 0x80:
            run_key, step = wait_owner(key)
            index = "/".join(part.hex() for part in (key[5:21], key[21:37], key[37:53]))
            return f"wait/{index}/{printed(run_key)}/{step.hex()}"
        case 0x90:
            return f"path/{int.from_bytes(key[1:5], 'big')}/{key[5:21].hex()}/{key[21:].hex()}"
        case 0xA0:
            return f"signal/{int.from_bytes(key[1:5], 'big')}/{key[5:].hex()}"
        case 0xB0:
            return f"cron/{int.from_bytes(key[1:5], 'big')}/{key[5:].hex()}"
        case 0xC0:
            return f"function/{int.from_bytes(key[1:5], 'big')}/{key[5:].hex()}"
        case 0xD0:
            return "mail/{}/{}{}".format(*mail_place(key), "/event" if len(key) > MAIL_BYTES else "")
        case 0xE0:
            run_key, step = ask_owner(key)
            return f"ask/{printed(run_key)}/{step.hex()}"
        case 0x70:
            return f"node/{key[1:].decode(errors='replace')}"
        case kind:
            return f"{kind:#04x}/{key[1:].hex()}"
