"""What the parent and the functions' process of a generation tell each other, in the frames of ``shells/frames.py``."""

from collections.abc import Callable

import msgspec

from steplog.config.schema import Config


class Load(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Import the code. ``sockets`` are numbers that the engine's process has inherited."""

    files: tuple[str, ...]
    root: str  # of the project
    is_root_searched: bool  # modules are named as seen from there
    config: Config
    log_path: str
    sockets: list[int]
    since_ms: int  # they are bound


class OpenLog(msgspec.Struct, frozen=True, tag=True):
    """Open the log, and serve."""


class Retry(msgspec.Struct, frozen=True, tag=True):
    """Try again at once what waits for its next attempt."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Let the bodies that run end for a while, hand back the rest, and end."""

    drain_s: float


class LoadedApp(msgspec.Struct, frozen=True):
    """An app, and how many functions it has."""

    id: str
    functions: int


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The code is imported. ``files`` are the absolute paths of the project's modules."""

    apps: list[LoadedApp]
    files: list[str]


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The code cannot be imported."""

    code: str  # of the error
    text: str
    place: str = ""  # FILE:LINE of the innermost frame of the user's
    source: str = ""  # that line
    frames: str = ""  # the traceback from the user's first frame on
    details: str = ""  # the whole traceback
    files: list[str] = []  # those that were imported, or had a part in the error


class Serving(msgspec.Struct, frozen=True, tag=True):
    """Requests are answered, and runs go on."""


class Stopping(msgspec.Struct, frozen=True, tag=True):
    """Bodies still run."""

    executing: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine could not open, or ended by itself."""

    code: str
    text: str


Told = Load | OpenLog | Retry | Stop
Said = Loaded | Refused | Serving | Stopping | Failed

decode_told: Callable[[bytes], Told] = msgspec.msgpack.Decoder(Told).decode
decode_said: Callable[[bytes], Said] = msgspec.msgpack.Decoder(Said).decode
