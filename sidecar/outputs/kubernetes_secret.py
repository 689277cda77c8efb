"""One key of a Kubernetes Secret, changed without touching the others.

Several daemons may publish the same token to the same key. So that one which has not heard of a refresh yet does not
put the old token back, an annotation beside the content says how far the record had come that it is from, and whoever
writes names the resource version that it has looked at.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from sidecar import formats
from sidecar.clients.kubernetes import SECRET_LIMIT, Fault, Kind, own_namespace, unwritable
from sidecar.errors import FormatError, OutputError
from sidecar.outputs import encoded
from sidecar.outputs.index import Entry, Index, digest
from sidecar.ports import Holding
from sidecar.tokens import ExpirySource, fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.clients.kubernetes import Kubernetes, Secret
    from sidecar.clock import Clock
    from sidecar.config.settings import OutputTarget, SecretKey
    from sidecar.ports import Mark, Publication

RACES = 5
"""Changes by others in a row before a publication is left to the next turn."""
REMEMBERED_FOR = 180.0
"""Seconds after which it is said since when nothing is known: three looks that should have been."""


class _Seen(msgspec.Struct, frozen=True):
    """What was in place when somebody looked."""

    at: float
    """Unix seconds."""
    since: float
    """When this content was first seen, in Unix seconds."""
    content: bytes | None = None
    entry: Entry | None = None
    """What its annotation says of this very content."""
    problem: str | None = None


class SecretOutput:
    """One key of a Secret. See `RemoteOutput` for the contract."""

    adopt = False

    def __init__(
        self, target: OutputTarget, place: SecretKey, api: Kubernetes, *, state_dir: Path, clock: Clock
    ) -> None:
        """See `sidecar.outputs.open_remote_output`."""
        self._namespace, self._name, self._key = place.namespace or own_namespace(), place.name, place.key
        self.id = f"secret:{self._namespace}/{self._name}/{self._key}"
        self.required = target.is_required
        self._target = target
        self._format = formats.for_target(target)
        self._api = api
        self._clock = clock
        self._index = Index(state_dir, self.id)
        # A name of an annotation is short, and a key may be long.
        self._annotation = f"token-sidecar/published-{hashlib.sha256(place.key.encode()).hexdigest()[:16]}"
        self._seen: _Seen | None = None

    @property
    def index_problem(self) -> str | None:
        """Why the index in `state_dir` could not be written; None: it is as it should be."""
        return self._index.problem

    async def publish(self, publication: Publication) -> bool:
        """See `Output.publish`."""
        content = encoded(publication, self._format, self._target, self.id)
        entry = Entry.of(publication, digest(content))
        for _ in range(RACES):
            secret, seen = await self._get()
            if self._is_older(entry, seen.entry):
                return False
            if seen.content != content:
                self._check(secret, content)
            self._index.expect(entry, in_place=digest(seen.content or b""))
            if seen.content == content:
                return False
            try:
                written = await self._api.change_secret(
                    self._namespace,
                    self._name,
                    data={self._key: content},
                    annotations={self._annotation: msgspec.json.encode(entry).decode()},
                    resource_version=secret.resource_version,
                )
            except Fault as fault:
                if fault.kind is not Kind.CONFLICT:
                    raise self._failed(fault) from None
            else:
                self._notice(written)
                return True
        raise OutputError(f"{self.id}: the Secret is changed by others faster than it can be written")

    async def look(self) -> None:
        """See `RemoteOutput.look`."""
        await self._get()

    async def read_back(self) -> Holding:
        """See `RemoteOutput`. What another daemon published is known as well as what this one did."""
        if self._seen is None:
            return Holding(problem="has not been looked at yet", mark=self._index.mark)
        return replace(self._judged(self._seen), mark=self._index.mark)

    def _judged(self, seen: _Seen) -> Holding:
        problem = seen.problem
        if self._clock.wall() - seen.at > REMEMBERED_FOR:
            last = datetime.fromtimestamp(seen.at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            problem = f"was last seen at {last}; what it holds now is not known"
        if seen.content is None:
            return Holding(problem=problem)
        entry = seen.entry or self._index.find(digest(seen.content))
        holding = entry.holding if entry is not None else self._foreign(seen.content, seen.since)
        return replace(holding, problem=problem or holding.problem)

    def _foreign(self, content: bytes, at: float) -> Holding:
        try:
            access = self._format.decode(content).access(written_at=at, by_receiver=True)
        except FormatError as error:
            return Holding(problem=f"is not in the format `{self._format.name}`: {error}")
        if access is None:
            return Holding(problem="holds no access token")
        known = access.expiry_source is not ExpirySource.ASSUMED
        return Holding(fingerprint=fingerprint(access.value), expires_at=access.expires_at if known else None)

    async def _get(self) -> tuple[Secret, _Seen]:
        try:
            secret = await self._api.get_secret(self._namespace, self._name)
        except Fault as fault:
            if fault.kind is Kind.MISSING:
                now = self._clock.wall()
                self._seen = _Seen(now, now, problem="does not exist")
            raise self._failed(fault) from None
        return secret, self._notice(secret)

    def _notice(self, secret: Secret) -> _Seen:
        content, before, now = secret.data.get(self._key), self._seen, self._clock.wall()
        since = before.since if before is not None and before.content == content else now
        if content:
            self._seen = _Seen(now, since, content, self._annotated(secret, content))
        else:
            missing = "is empty" if content is not None else f"is missing: the Secret has no key {self._key}"
            self._seen = _Seen(now, since, problem=missing)
        return self._seen

    def _annotated(self, secret: Secret, content: bytes) -> Entry | None:
        """Read what the annotation says, if it is of this content."""
        try:
            entry = msgspec.json.decode(secret.annotations.get(self._annotation, ""), type=Entry)
        except (msgspec.MsgspecError, RecursionError):
            return None
        return entry if entry.digest == digest(content) else None

    def _is_older(self, ours: Entry, theirs: Entry | None) -> bool:
        """Tell whether another daemon published a later token than ours, which serves readers for longer, too."""
        if theirs is None or not _behind(ours.mark, theirs.mark):
            return False
        if theirs.expires_at is None or ours.expires_at is None:
            return theirs.expires_at is None
        return theirs.expires_at >= ours.expires_at

    def _check(self, secret: Secret, content: bytes) -> None:
        """Raise for a Secret that must not, or can't, be written."""
        place = f"{self.id}: the Secret"
        if problem := unwritable(secret, self._key, undone="it"):
            raise OutputError(f"{place} {problem}")
        if secret.size_with({self._key: content}) > SECRET_LIMIT:
            raise OutputError(
                f"{place} would hold more than {SECRET_LIMIT} bytes; give the token a Secret of its own"
            )

    def _failed(self, fault: Fault) -> OutputError:
        return OutputError(f"{self.id}: {fault}")


def _behind(ours: Mark, theirs: Mark) -> bool:
    if ours.lineage == theirs.lineage:
        return ours.generation < theirs.generation
    return (ours.seeds, ours.issued_at) < (theirs.seeds, theirs.issued_at)
