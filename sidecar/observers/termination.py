"""Tells kubelet why: the last words of a container are what `kubectl describe pod` shows."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sidecar.events import Event, TokenForgotten, TokenView, TurnEnded
from sidecar.tokens import GrantState

PATH = Path("/dev/termination-log")
"""Kubernetes' default `terminationMessagePath`; elsewhere there is no such file, and none is made."""

LIMIT = 4096
"""Bytes that kubelet shows. It takes the last ones, so what is too long would lose its beginning."""


class TerminationLog:
    """An observer that keeps, where kubelet looks, what is wrong with each required token and what repairs it.

    It is written when things change and not at the end, which may be a SIGKILL. And it tells how things stand, not
    what happened, since each start of a container has an empty file: a grant that was found dead is told of again,
    and one that another replica's seed revived is struck off.
    """

    def __init__(self, path: Path = PATH) -> None:
        """Write to `path` if it exists."""
        self._path = path
        self._troubles: dict[str, str] = {}

    def notice(self, event: Event) -> None:
        """Note what is wrong with a token, or strike it off."""
        if isinstance(event, TurnEnded):
            self._say(event.view.token, _trouble(event.view))
        elif isinstance(event, TokenForgotten):
            self._say(event.token, "")

    def _say(self, token: str, trouble: str) -> None:
        if self._troubles.get(token, "") == trouble:
            return
        self._troubles[token] = trouble
        told = "".join(f"{said}\n" for said in self._troubles.values() if said)
        with suppress(OSError):
            if self._path.exists():
                self._path.write_bytes(told.encode()[:LIMIT])


def _trouble(view: TokenView) -> str:
    """Say in one line what keeps a required token from being well; empty where nothing does."""
    if not view.required:
        return ""
    if view.grant_state is not GrantState.OK:
        said = f"{view.token}: the grant is {view.grant_state.value} ({view.reason})"
        return f"{said}; {view.remedy}" if view.remedy else said
    problems = [f"{each.output}: {each.problem}" for each in view.outputs if each.required and each.problem]
    return f"{view.token}: {'; '.join(problems)}" if problems else ""
