"""Several steps at a time."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias, TypeVar, overload

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
Mode = Literal["wait", "race"]
Branch: TypeAlias = Callable[[], Awaitable[A]]


class Group:
    """Runs steps in parallel. ``asyncio.gather`` and ``TaskGroup`` do as well."""

    @overload
    async def parallel(self, branches: tuple[Branch[A], Branch[B]], /, *, mode: Mode = "wait") -> tuple[A, B]: ...
    @overload
    async def parallel(
        self, branches: tuple[Branch[A], Branch[B], Branch[C]], /, *, mode: Mode = "wait"
    ) -> tuple[A, B, C]: ...
    @overload
    async def parallel(
        self, branches: tuple[Branch[A], Branch[B], Branch[C], Branch[D]], /, *, mode: Mode = "wait"
    ) -> tuple[A, B, C, D]: ...
    @overload
    async def parallel(
        self, branches: tuple[Branch[A], Branch[B], Branch[C], Branch[D], Branch[E]], /, *, mode: Mode = "wait"
    ) -> tuple[A, B, C, D, E]: ...
    @overload
    async def parallel(self, branches: tuple[Branch[A], ...], /, *, mode: Mode = "wait") -> tuple[A, ...]: ...
    async def parallel(self, branches: tuple[Branch[Any], ...], /, *, mode: Mode = "wait") -> tuple[Any, ...]:
        """Begin every branch, in this order, and return their results in this order (PAR-04, PY-32).

        A branch is called without arguments and starts a step, as ``lambda: step.run(…)`` does; in a loop give it what
        differs with ``functools.partial``. ``mode`` says when a function of another process is asked how its branches
        go on: when all their steps have ended, or after each. Here each goes on when its own step has ended, in both.

        The first branch that fails raises here (PAR-06); the others go on.
        """
        import asyncio  # whoever only sends events never loads it

        if not isinstance(branches, tuple):
            raise TypeError(f"branches is {branches!r}; give a tuple of functions that each start a step")
        if mode not in ("wait", "race"):
            raise ValueError(f"mode is {mode!r}; it must be wait or race")
        return tuple(await asyncio.gather(*[branch() for branch in branches]))
