"""One column of one row in an application's own table, in the application's own layout.

Several daemons may publish the same token to the same row, and nothing of ours can stand beside it. So a content that
this daemon did not write is taken for another daemon's later token if it lives longer, as far as its format or the
time of its update tells; and what is written replaces that alone which was looked at.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn

from sidecar import formats
from sidecar.clients.postgres import Fault
from sidecar.errors import FormatError, OutputError
from sidecar.outputs import encoded
from sidecar.outputs.index import Entry, Index, digest
from sidecar.outputs.sight import Sight
from sidecar.ports import Finding, Grade
from sidecar.tokens import ExpirySource

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.clients.rows import Found, Row
    from sidecar.clock import Clock
    from sidecar.config.settings import OutputTarget, SqlOutput
    from sidecar.ports import Holding, Publication

RACES = 5
"""Changes by others in a row before a publication is left to the next turn."""
PLAUSIBLE = 2.0
"""So many lifetimes from now a token of ours may end: a provider may name another one than last time."""
CLOCKS_APART = 300.0
"""Seconds by which the database's clock may be ahead of ours; a later update is in the zone of somebody's session."""


class TableOutput:
    """One column of one row. See `RemoteOutput` for the contract."""

    adopt = False

    def __init__(
        self, target: OutputTarget, place: SqlOutput, row: Row, *, state_dir: Path, clock: Clock
    ) -> None:
        """See `sidecar.outputs.open_remote_output`."""
        self.id = row.name
        self.required = target.is_required
        self._target = target
        self._place = place
        self._row = row
        self._format = formats.for_target(target)
        self._clock = clock
        self._index = Index(state_dir, self.id)
        self._sight = Sight(self._format, self._index, clock)

    @property
    def index_problem(self) -> str | None:
        """Why the index in `state_dir` could not be written; None: it is as it should be."""
        return self._index.problem

    async def publish(self, publication: Publication) -> bool:
        """See `Output.publish`."""
        laid_out = encoded(publication, self._format, self._target, self.id)
        try:
            return await self._put(publication, laid_out.decode())
        except Fault as fault:
            self._fail(fault)

    async def _put(self, publication: Publication, text: str) -> bool:
        content = self._ours(text, is_json=await self._row.is_json())
        for _ in range(RACES):
            found = await self._get()
            seen = await self._content(found)
            if found is not None and seen != content and self._is_later(found, seen, publication):
                return False
            self._index.expect(Entry.of(publication, digest(content)), in_place=digest(seen))
            if seen == content:
                return False
            if found is None and self._place.mode == "update":
                raise Fault("no row matches `where`", "let the application make it, or write `mode: upsert`")
            done = await (self._row.replace(text, seen=found) if found else self._row.insert(text))
            if done:
                self._sight.note(content)
                return True
        raise Fault("the row is changed by others faster than it can be written", "the next turn tries again")

    async def look(self) -> None:
        """See `RemoteOutput.look`."""
        try:
            await self._get()
        except Fault as fault:
            self._fail(fault)

    async def read_back(self) -> Holding:
        """See `RemoteOutput`. What another daemon published is known as well as what this one did."""
        return self._sight.holding()

    async def diagnose(self) -> list[Finding]:
        """See `SupportsDiagnosis`: the table's types and the role's rights, and whether the row is there."""
        try:
            layout = await self._row.layout()
            found = await self._row.read()
            release, in_clear = await self._row.about()
        except Fault as fault:
            return [Finding(Grade.FAILED, fault.reason, fault.remedy, exit_code=4 if fault.transient else 1)]
        column = layout.columns[self._place.column]
        text = f"PostgreSQL {release}; {layout.role} may write {layout.table}.{column.quoted} ({column.type})"
        findings = [Finding(Grade.OK, text)]
        if found is None and self._place.mode == "update":
            remedy = "let the application make it, or write `mode: upsert`"
            findings.append(Finding(Grade.FAILED, "no row matches `where`", remedy))
        if in_clear:
            text = "tokens cross the network in clear"
            findings.append(Finding(Grade.WARNING, text, "add sslmode=verify-full to the URL"))
        return findings

    async def _get(self) -> Found | None:
        found = await self._row.read()
        missing = "has no such row" if found is None else "is NULL" if found.content is None else "is empty"
        self._sight.note(await self._content(found), problem=missing)
        return found

    async def _content(self, found: Found | None) -> bytes:
        if found is None or not found.content:
            return b""
        content = _in_one_way(found.content) if await self._row.is_json() else None
        return content or found.content.encode()

    def _ours(self, text: str, *, is_json: bool) -> bytes:
        content = _in_one_way(text) if is_json else text.encode()
        if content is None:
            raise Fault(
                f"the column takes JSON, and the format `{self._format.name}` as configured is none",
                "write `format: json`, or name a text column",
            )
        return content

    def _is_later(self, found: Found, content: bytes, ours: Publication) -> bool:
        """Tell whether another daemon published a later token than ours, as far as the row tells."""
        now, access = self._clock.wall(), ours.access
        if not content or self._index.find(digest(content)) is not None:
            return False
        try:
            # Without a time of the update a life in seconds tells no end, and counted from now it would never pass.
            theirs = self._format.decode(content).access(
                written_at=found.updated or 0.0, by_receiver=found.updated is not None
            )
        except FormatError:
            return False
        if theirs is None:
            return False
        if theirs.expiry_source is ExpirySource.ASSUMED:
            return access.issued_at < (found.updated or 0.0) <= now + CLOCKS_APART
        if theirs.expires_at is None or access.expires_at is None or access.ttl is None:
            return False
        return access.expires_at < theirs.expires_at <= now + PLAUSIBLE * access.ttl

    def _fail(self, fault: Fault) -> NoReturn:
        raise OutputError(f"{self.id}: {fault}") from None


def _in_one_way(text: str) -> bytes | None:
    """Write JSON so that it can be compared, since the database keeps it in its own way; None: it is none."""
    try:
        return json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
