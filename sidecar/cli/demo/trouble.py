"""When somebody broke something on purpose: what a reader sees meanwhile breaks no promise."""

from __future__ import annotations

from dataclasses import dataclass, field

LEAD = 3.0
"""Seconds by which a trouble may have begun before it was noticed: the provider is asked once a second."""

PATIENCE = 60.0
"""Seconds in which all must be well again once nothing is broken any more."""

LOSSES = {"expired", "short", "refused"}
"""What a broken provider or a dead daemon excuses. Half a file, or none, has no excuse."""


@dataclass(slots=True)
class Trouble:
    """From the first thing that was broken until all was well again. Times are Unix seconds."""

    began: float
    last_cause: float
    causes: list[str] = field(default_factory=list)
    only_falls: bool = True
    """Whether nothing was broken but the daemon, by killing it."""
    downtime: float = 0.0
    """Seconds without a daemon."""
    in_doubt: bool = False
    """Whether the daemon was killed between sending a request and keeping the answer."""
    ended: float | None = None

    def covers(self, second: int) -> bool:
        """Tell whether it may have lasted in this second."""
        return self.began - LEAD <= second <= (second if self.ended is None else self.ended) + 1

    def excuses(self, kind: str, second: int, *, spare: float) -> bool:
        """Tell whether a breach in this second is somebody's doing.

        `spare`: seconds for which a daemon may be away without any reader noticing, min_validity and lease together.
        """
        if kind not in LOSSES or not self.covers(second):
            return False
        return kind == "short" or not self.only_falls or self.in_doubt or self.downtime > spare


class Troubles:
    """All of them, the present one last."""

    def __init__(self) -> None:
        """Nothing is broken yet."""
        self.all: list[Trouble] = []

    @property
    def present(self) -> Trouble | None:
        """The one that isn't over."""
        return self.all[-1] if self.all and self.all[-1].ended is None else None

    def note(self, now: float, cause: str, *, fall: bool = False) -> None:
        """Something is broken; `fall`: the daemon was killed. The same cause may be noted for as long as it lasts."""
        trouble = self.present
        if trouble is None:
            trouble = Trouble(now, now)
            self.all.append(trouble)
        trouble.last_cause = now
        trouble.only_falls &= fall
        if cause not in trouble.causes:
            trouble.causes.append(cause)

    def lingers(self, now: float) -> bool:
        """Tell whether all should be well again by now, and isn't."""
        return self.present is not None and now > self.present.last_cause + PATIENCE
