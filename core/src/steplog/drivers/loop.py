"""The users' event loop: it knows when a run is at rest.

A run is at rest when no ready callback of the loop carries its context. Looking at tasks is not enough (the callback of
a future is in no task), so the loop stamps the *tenant* that a callback's ``contextvars`` context names whenever one is
scheduled. A check follows behind the callbacks that were ready; a tenant that was not stamped since the check before is
at rest. Callbacks that the loop makes itself, for timers and sockets, leave no stamp until they schedule something:
what a function awaits outside a step is not waited for.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

from steplog.errors import Interrupt

if TYPE_CHECKING:
    _Loop = asyncio.SelectorEventLoop
else:
    try:
        from uvloop import Loop as _Loop
    except ImportError:  # not on every platform
        _Loop = asyncio.SelectorEventLoop

_base_call_soon = _Loop.call_soon
_base_call_soon_threadsafe = _Loop.call_soon_threadsafe
RESTLESS_CHECKS = 1_000  # a body that never rests must not keep results from the rest of its run for ever


class Tenant:
    """Whom callbacks belong to."""

    __slots__ = ("checks", "is_checked", "seen", "stamp")

    def __init__(self) -> None:
        self.stamp = 0  # callbacks scheduled so far
        self.seen = 0  # the stamp at the last check
        self.checks = 0  # in a row that found it busy
        self.is_checked = False

    def rest(self) -> None:
        """Called on the loop, in an empty context, each time the tenant comes to rest."""


TENANT: ContextVar[Tenant | None] = ContextVar("steplog_tenant", default=None)


class UsersLoop(_Loop):
    """An event loop (uvloop's where it installs) that tells each tenant when it is at rest."""

    def __init__(self) -> None:
        super().__init__()
        self._checked: list[Tenant] = []
        self._empty = Context()
        self.checks = 0  # so far; read by the watchdog's thread

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        tenant = TENANT.get() if context is None else context.get(TENANT)
        if tenant is not None:
            tenant.stamp += 1
            if not tenant.is_checked:
                self.check(tenant)
        return _base_call_soon(self, callback, *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = _base_call_soon_threadsafe(self, callback, *args, context=context)
        tenant = TENANT.get() if context is None else context.get(TENANT)
        if tenant is not None:  # a thread of the run's own: the loop must see the stamp
            _base_call_soon_threadsafe(self, self._stamp, tenant, context=self._empty)
        return handle

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Pass on what no code has looked at, but for ``Interrupt``: the branches of a closed run end by it."""
        if not isinstance(context.get("exception"), Interrupt):
            super().call_exception_handler(context)

    @property
    def busy(self) -> int:
        """How many tenants are not at rest."""
        return len(self._checked)

    def check(self, tenant: Tenant) -> None:
        """Have a tenant told when it is at rest."""
        tenant.is_checked = True
        if not self._checked:
            _base_call_soon(self, self._check, context=self._empty)
        self._checked.append(tenant)

    def _stamp(self, tenant: Tenant) -> None:
        tenant.stamp += 1
        if not tenant.is_checked:
            self.check(tenant)

    def _check(self) -> None:
        """Everything that was ready when this was scheduled has run by now."""
        self.checks += 1
        checked, self._checked = self._checked, []
        for tenant in checked:
            if tenant.stamp != tenant.seen and tenant.checks < RESTLESS_CHECKS:
                tenant.seen = tenant.stamp
                tenant.checks += 1
                if not self._checked:
                    _base_call_soon(self, self._check, context=self._empty)
                self._checked.append(tenant)
            else:
                tenant.is_checked, tenant.checks = False, 0
                try:
                    tenant.rest()
                except Exception as error:  # noqa: BLE001 - the others would never be told
                    self.call_exception_handler({"message": "a tenant's rest failed", "exception": error})
