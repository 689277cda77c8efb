"""Who the members of a set are: asked for in turns on the scheduler's heap, while members come and go.

A source that fails changes nothing, and neither does one that suddenly misses most of those who are there: an answer
that is empty by accident must not take everybody's token away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from anyio.lowlevel import checkpoint

from sidecar.errors import AccountsError, ConfigError, StoreError
from sidecar.events import SetListed
from sidecar.schedule import Wake

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Clock
    from sidecar.events import Event
    from sidecar.ports import Accounts

BUSY = 20.0
"""A list that takes long is asked for less often: no more than one part in so many of the time goes into it."""
MANY = 10
"""Members. So many must not vanish at once if they are more than half of all."""
BREATH = 100
"""Members that are taken in before others may go on."""


class Keeper(Protocol):
    """Whoever serves the members."""

    def present(self, of: str) -> set[str]:
        """Return the accounts that are served now."""
        ...

    async def admit(self, of: str, account: str) -> None:
        """Serve an account. Raises `ConfigError` for one whose name has no place in the set's settings."""
        ...

    def dismiss(self, of: str, account: str) -> None:
        """Serve an account no more, once nothing of its is under way."""
        ...

    def settled(self, of: str) -> None:
        """Take note that everybody who is there has been admitted for the first time."""
        ...


class Roster:
    """Keeps the members of one set the accounts that its source names."""

    def __init__(
        self, of: str, keeper: Keeper, clock: Clock, emit: Callable[[Event], None], *, required: bool
    ) -> None:
        """Know nobody before the first turn. Whoever makes it gives it its `source` and how often it is asked."""
        self._of = of
        self._keeper = keeper
        self._clock = clock
        self._emit = emit
        self.required = required
        self.source: Accounts
        self.every = 0.0
        """Seconds between two questions."""
        self.provider = ""
        """Of all members, by its name."""
        self._refused: dict[str, str] = {}
        """Account → why it can't be served."""
        self._listed_at: float | None = None
        self._invited: set[str] = set()
        """Accounts that came by another way since the source was asked last, and that its answer can't know."""

    def invite(self, account: str) -> None:
        """Let an account stay that the source may not have heard of yet."""
        self._invited.add(account)

    def tell(self, problem: str = "") -> None:
        """Say how the set stands; at the start, that nobody is known yet."""
        self._emit(
            SetListed(
                self._of,
                members=len(self._keeper.present(self._of)),
                refused=tuple(sorted(self._refused.items())),
                problem=problem,
                listed_at=self._listed_at,
                required=self.required,
                provider=self.provider,
            )
        )

    async def turn(self, late: Callable[[], None]) -> Wake:
        """Take one turn and say when the next is due. It occupies no worker."""
        late()
        began, problem = self._clock.boot(), ""
        self._invited.clear()
        try:
            listed = set(await self.source.names())
        except (AccountsError, StoreError) as error:
            problem = f"{error}; the accounts that are known stay"
        else:
            problem = await self._take(listed)
        self.tell(problem)
        pause = max(self.every, BUSY * (self._clock.boot() - began))
        return Wake(self._clock.wall() + pause, urgency=float("-inf"))

    async def _take(self, listed: set[str]) -> str:
        """Bring the members up to date; returns why that was not done, in words."""
        present = self._keeper.present(self._of)
        gone = present - listed - self._invited
        if len(gone) > MANY and len(gone) > len(present) / 2:
            return (
                f"{self.source.id}: {len(gone)} of {len(present)} accounts are missing all at once, which is taken for "
                "an accident: they stay; if they are to go, remove fewer at a time, or restart"
            )
        for account in sorted(gone):
            self._keeper.dismiss(self._of, account)
        # Somebody who is back while on the way out stays.
        for number, account in enumerate(sorted(listed)):
            if account not in present and not await self._admitted(account):
                continue
            if number % BREATH == BREATH - 1:
                await checkpoint()
        self._refused = {account: why for account, why in self._refused.items() if account in listed}
        if self._listed_at is None:
            self._keeper.settled(self._of)
        self._listed_at = self._clock.wall()
        return ""

    async def _admitted(self, account: str) -> bool:
        try:
            await self._keeper.admit(self._of, account)
        except ConfigError as error:
            self._refused[account] = str(error)
            return False
        self._refused.pop(account, None)
        return True
