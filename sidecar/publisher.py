"""All outputs of one token: published to, read back, and watched for what applications wrote themselves."""

from __future__ import annotations

from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING

from sidecar.errors import OutputError
from sidecar.events import OutputView, OutputWritten
from sidecar.ports import SupportsGlance, SupportsWithdrawal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.events import Event
    from sidecar.ports import Foreign, Holding, Mark, Output, Publication
    from sidecar.stopwatch import Stopwatch

STABLE_AFTER = 1.0
"""Seconds that a file an application wrote must rest before it is taken for whole (the gmail SDK truncates)."""

FIRST_RETRY, LAST_RETRY = 1.0, 30.0


class Publisher:
    """Publishes one token everywhere it is wanted; one output that fails never stops another."""

    __slots__ = ("_emit", "_failures", "_outputs", "_problems", "_token", "unsettled")

    def __init__(self, token: str, outputs: Sequence[Output], emit: Callable[[Event], None]) -> None:
        """Take the outputs in the order of the configuration."""
        self._token = token
        self._outputs = tuple(outputs)
        self._emit = emit
        self._problems: dict[str, str] = {}
        self._failures = 0
        self.unsettled = False
        """Whether an application is writing to an output right now."""

    async def publish(self, publication: Publication, watch: Stopwatch) -> list[str]:
        """Bring every output up to date; return the ids of those that were written."""
        written = []
        for output in self._outputs:
            if output.adopt and self.unsettled:
                continue
            with suppress(OutputError), watch.step("publish", output.id) as note:
                try:
                    changed = await output.publish(publication)
                except OutputError as error:
                    note.outcome = "failed"
                    self._problems[output.id] = str(error)
                    self._emit(OutputWritten(self._token, output.id, "failed", str(error)))
                    raise
                self._problems.pop(output.id, None)
                note.outcome, note.idle = "written" if changed else "unchanged", not changed
                self._emit(OutputWritten(self._token, output.id, note.outcome))
                if changed:
                    written.append(output.id)
        self._failures = self._failures + 1 if self._problems else 0
        return written

    def retry_delay(self) -> float | None:
        """Seconds after which outputs that failed are tried again; None when all are right."""
        if not self._problems:
            return None
        return min(FIRST_RETRY * 2.0 ** min(self._failures - 1, 10), LAST_RETRY)

    async def foreign(self) -> tuple[Output, Foreign] | None:
        """Find a token that an application refreshed by itself and that may be adopted."""
        self.unsettled = False
        for output in self._outputs:
            if not output.adopt:
                continue
            found = (await output.read_back()).foreign
            if found is not None and found.stable_for < STABLE_AFTER:
                self.unsettled = True
            elif found is not None:
                return output, found
        return None

    def is_touched(self) -> bool:
        """Tell whether any output is known to hold something else than was published there last."""
        return not all(
            output.is_untouched() for output in self._outputs if isinstance(output, SupportsGlance)
        )

    def withdraw(self) -> list[str]:
        """Take away what was published where that can be done; return what is left, and why, in words."""
        left = [output.withdraw() for output in self._outputs if isinstance(output, SupportsWithdrawal)]
        return [problem for problem in left if problem]

    async def mark(self) -> Mark | None:
        """Tell how far the record had come that this daemon published last; None: it never did."""
        marks = [(await output.read_back()).mark for output in self._outputs]
        return max((mark for mark in marks if mark is not None), key=attrgetter("issued_at"), default=None)

    async def views(self) -> tuple[OutputView, ...]:
        """Read every output back."""
        return tuple([self._view(output, await output.read_back()) for output in self._outputs])

    def _view(self, output: Output, holding: Holding) -> OutputView:
        return OutputView(
            output=output.id,
            required=output.required,
            fingerprint=holding.fingerprint,
            lineage=holding.lineage,
            expires_at=holding.expires_at,
            never_expires=holding.never_expires,
            # A view names the output beside it.
            problem=self._problems.get(output.id, "").removeprefix(f"{output.id}: ") or holding.problem,
            read_since_write=holding.read_since_write,
        )
