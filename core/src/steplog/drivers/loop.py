"""The users' event loop: it knows when a run is at rest.

A run is at rest when no ready callback of the loop carries its context. Looking at tasks is not enough (the callback of a
future is in no task), so every callback is counted, for the *tenant* that its ``contextvars`` context names. A step's
body is a tenant of its own: it does not keep its run from resting.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any


class Tenant:
    """Whom callbacks belong to."""

    __slots__ = ("ready",)

    def __init__(self) -> None:
        self.ready = 0  # callbacks of it that wait in the loop

    def rest(self) -> None:
        """Called on the loop, outside every context, whenever ``ready`` falls to 0."""

    def describe(self) -> str:
        """Name it in a warning."""
        return "a run"


TENANT: ContextVar[Tenant | None] = ContextVar("steplog_tenant", default=None)


class _TenantHandle(asyncio.Handle):
    """A ready callback of a tenant."""

    __slots__ = ("_tenant",)

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], loop: "UsersLoop", context: Context | None, tenant: Tenant
    ) -> None:
        super().__init__(callback, args, loop, context)
        self._tenant: Tenant | None = tenant
        tenant.ready += 1

    def _run(self) -> None:
        tenant, loop = self._tenant, self._loop  # type: ignore[attr-defined] # private, the same since 3.7
        assert tenant is not None, "a handle runs once"
        self._tenant = None
        loop.running = tenant
        super()._run()  # type: ignore[misc]
        loop.running = None
        loop.turns += 1
        tenant.ready -= 1
        if not tenant.ready:
            tenant.rest()

    def cancel(self) -> None:
        tenant, self._tenant = self._tenant, None
        super().cancel()
        if tenant is not None:
            tenant.ready -= 1
            if not tenant.ready:
                self._loop.call_soon(_rest, tenant, context=Context())  # type: ignore[attr-defined]


def _rest(tenant: Tenant) -> None:
    if not tenant.ready:
        tenant.rest()


class UsersLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that counts the ready callbacks of each tenant."""

    def __init__(self) -> None:
        super().__init__()
        self.running: Tenant | None = None  # whose callback runs now; read by the watchdog's thread
        self.turns = 0  # callbacks of tenants so far

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self._call_soon(callback, args, context)

    def _call_soon(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.Handle:
        """Where ``call_soon`` and ``call_soon_threadsafe`` meet."""
        tenant = TENANT.get() if context is None else context.get(TENANT)
        handle = (
            asyncio.Handle(callback, args, self, context)
            if tenant is None
            else _TenantHandle(callback, args, self, context, tenant)
        )
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle
