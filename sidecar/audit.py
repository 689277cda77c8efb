"""How a deed is written down: who asked for it, and what it came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sidecar.errors import SidecarError
from sidecar.events import Audited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.events import Event

Reply = TypeVar("Reply")


async def auditing(
    work: Awaitable[Reply],
    emit: Callable[[Event], None],
    *,
    who: str,
    what: str,
    token: str,
    origin: str = "",
) -> Reply:
    """Wait for `work`, and tell `emit` how it ended; a reply may have a `fingerprint`, and be `aside`."""
    try:
        reply = await work
    except SidecarError as error:
        emit(Audited(who, what, "failed", token, reason=str(error), origin=origin))
        raise
    outcome = "aside" if getattr(reply, "aside", False) else "done"
    emit(Audited(who, what, outcome, token, getattr(reply, "fingerprint", ""), origin=origin))
    return reply
