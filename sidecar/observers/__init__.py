"""What watches the engine: logs and metrics. The engine knows one function, `emit`, and nothing of these."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.events import Event
    from sidecar.ports import Observer

_log = structlog.get_logger("sidecar.observers")


def fan_out(observers: Iterable[Observer]) -> Callable[[Event], None]:
    """Make the engine's `emit`: every observer notices every event, in the order given.

    An observer that raises breaks neither the engine nor the observers after it. Its first failure is logged;
    after that it is silent, because what fails once fails at every event.
    """
    watching = tuple(observers)
    failed: set[int] = set()

    def emit(event: Event) -> None:
        for place, observer in enumerate(watching):
            try:
                observer.notice(event)
            except Exception:  # noqa: BLE001 - whatever it is, a renewal must not fail of being watched
                if place not in failed:
                    failed.add(place)
                    _log.error(
                        f"the observer {type(observer).__name__} failed at {type(event).__name__}; "
                        "later failures of it are not logged",
                        exc_info=True,
                    )

    return emit
