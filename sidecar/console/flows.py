"""Consents that are under way: each belongs to one browser, one token and one provider, and is good for one answer."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from sidecar.console.signing import new_id
from sidecar.enrol.code import Authorization

if TYPE_CHECKING:
    from sidecar.console.access import Role
    from sidecar.console.signing import Signer

LIFE = 600.0
"""Seconds for a human to consent."""
MOST = 1024
MOST_OF_ONE = 8
"""Consents at once of one browser; the oldest makes room."""

STATE = "state"


class Flow(msgspec.Struct, frozen=True):
    """One consent."""

    token: str
    what: str
    """`consent`, or `connect` where users bring their own accounts."""
    role: Role
    """Who may begin and end it."""
    session: str
    provider: str
    """The last part of the path where the answer has to come."""
    since: str
    """The lineage that is to be replaced; see `Renewer.plant`."""
    authorization: Authorization
    back: str
    """The path of the page that it began on."""


class Flows:
    """The consents of one console, in memory: the proof key never leaves it."""

    def __init__(self, signer: Signer) -> None:
        """Have none yet."""
        self._signer = signer
        self._open: OrderedDict[str, Flow] = OrderedDict()

    def __len__(self) -> int:
        """Count those that wait for an answer, or were given up."""
        return len(self._open)

    def new_state(self, token: str, what: str) -> tuple[str, str]:
        """Return a nonce, and the `state` that has it."""
        nonce = new_id()
        return nonce, self._signer.sign(STATE, [nonce, token, what])

    def begin(self, nonce: str, flow: Flow) -> None:
        """Wait for an answer."""
        own = [known for known, other in self._open.items() if other.session == flow.session]
        for known in own[: max(0, len(own) - MOST_OF_ONE + 1)]:
            del self._open[known]
        while len(self._open) >= MOST:
            self._open.popitem(last=False)
        self._open[nonce] = flow

    def take(self, state: str, session: str, provider: str) -> Flow | None:
        """Return the consent that an answer belongs to, once; None if there is none, and nothing has changed then."""
        match self._signer.read(STATE, state, max_age=LIFE):
            case [str(nonce), str(token), str(what)]:
                flow = self._open.get(nonce)
            case _:
                return None
        if flow is None or (flow.session, flow.provider) != (session, provider):
            return None
        if (flow.token, flow.what) != (token, what):
            return None
        return self._open.pop(nonce)
