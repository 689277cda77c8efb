"""The latest view of every token: what status, metrics and probes show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.events import Event, SetListed, TokenForgotten, TokenView, TurnEnded

if TYPE_CHECKING:
    from collections.abc import Iterator


class Board:
    """An observer that keeps the last view of each token."""

    def __init__(self) -> None:
        """Start empty."""
        self._views: dict[str, TokenView] = {}
        self.sets: dict[str, SetListed] = {}
        """Set → what came of the last look at who its accounts are."""

    def notice(self, event: Event) -> None:
        """Keep the view that a turn ended with."""
        if isinstance(event, TurnEnded):
            self._views[event.view.token] = event.view
        elif isinstance(event, SetListed):
            self.sets[event.of] = event
        elif isinstance(event, TokenForgotten):
            self._views.pop(event.token, None)
            self.sets.pop(event.token, None)

    def put(self, view: TokenView) -> None:
        """Replace a view, after its outputs were read back again."""
        if view.token in self._views:
            self._views[view.token] = view

    def get(self, token: str) -> TokenView | None:
        """Return one token's view."""
        return self._views.get(token)

    def __iter__(self) -> Iterator[TokenView]:
        """Go through all views, by name."""
        return iter([self._views[name] for name in sorted(self._views)])
