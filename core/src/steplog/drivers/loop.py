"""The users' event loop: it knows when a run is at rest.

A run is at rest when no ready callback of the loop carries its context. Looking at tasks is not enough (the callback
of a future is in no task), so the loop stamps the *tenant* that a callback's ``contextvars`` context names with the
number of the pass in which it is scheduled. Passes are counted by a callback that queues itself again behind those
that are ready: what was scheduled in a pass has run by the end of the next. Callbacks that the loop makes itself, for
timers and sockets, leave no stamp until they schedule something: what a function awaits outside a step is not waited
for.
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
REST_PASSES = 2  # after which what was scheduled in a pass has run
RESTLESS_PASSES = 1_000  # a body that never rests must not keep results from the rest of its run for ever


class Tenant:
    """Whom callbacks belong to."""

    __slots__ = ("asked_for", "is_asking", "stamp")

    def __init__(self) -> None:
        self.stamp = -REST_PASSES  # the pass in which its newest callback was scheduled
        self.is_asking = False  # it wants to be told when it is at rest
        self.asked_for = 0  # passes

    def rest(self) -> None:
        """Called on the loop, in an empty context, when a tenant that asked for it is at rest."""


TENANT: ContextVar[Tenant | None] = ContextVar("steplog_tenant", default=None)


class UsersLoop(_Loop):
    """An event loop (uvloop's where it installs) that tells each tenant when it is at rest."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0  # so far, of those with a tenant's callbacks; read by the watchdog's thread
        self.busy = 0  # tenants' callbacks that the last pass scheduled
        self._stamps = self._seen = 0  # callbacks of tenants, so far and before this pass
        self._is_counting = False
        self._asking: list[Tenant] = []
        self._empty = Context()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        tenant = TENANT.get() if context is None else context.get(TENANT)
        if tenant is not None:  # what _stamp does, without a call more
            tenant.stamp = self.passes
            self._stamps += 1
            if not self._is_counting:
                self._count()
        if len(args) == 1:  # nearly always; the general form costs a tuple and a dict more
            return _base_call_soon(self, callback, args[0], context=context)
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

    def is_at_rest(self, tenant: Tenant) -> bool:
        """Whether no callback of the tenant is ready."""
        return self.passes - tenant.stamp >= REST_PASSES

    def tell_at_rest(self, tenant: Tenant) -> None:
        """Have a tenant told, once, when it is at rest: in the next pass at the earliest."""
        if not tenant.is_asking:
            tenant.is_asking, tenant.asked_for = True, 0
            self._asking.append(tenant)
            self._count()

    def _stamp(self, tenant: Tenant) -> None:
        tenant.stamp = self.passes
        self._stamps += 1
        if not self._is_counting:
            self._count()

    def _count(self) -> None:
        if not self._is_counting:
            self._is_counting = True
            _base_call_soon(self, self._pass, context=self._empty)

    def _pass(self) -> None:
        """Everything that was ready when this was scheduled has run by now."""
        self.passes += 1
        self.busy = self._stamps - self._seen
        self._seen = self._stamps
        if self._asking:
            self._tell()
        if self.busy or self._asking or self._stamps != self._seen:
            _base_call_soon(self, self._pass, context=self._empty)
        else:
            self._is_counting = False

    def _tell(self) -> None:
        asking, self._asking = self._asking, []
        for tenant in asking:
            if not self.is_at_rest(tenant) and tenant.asked_for < RESTLESS_PASSES:
                tenant.asked_for += 1
                self._asking.append(tenant)
                continue
            tenant.is_asking = False
            try:
                tenant.rest()
            except Exception as error:  # noqa: BLE001 - the others would never be told
                self.call_exception_handler({"message": "a tenant's rest failed", "exception": error})
