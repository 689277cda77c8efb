"""One key of a Kubernetes Secret, changed without touching the others.

Several daemons may publish the same token to the same key. So that one which has not heard of a refresh yet does not
put the old token back, an annotation beside the content says how far the record had come that it is from, and whoever
writes names the resource version that it has looked at.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from sidecar import formats
from sidecar.clients.kubernetes import SECRET_LIMIT, Fault, Kind, own_namespace, unwritable
from sidecar.errors import OutputError
from sidecar.outputs import encoded
from sidecar.outputs.index import Entry, Index, digest
from sidecar.outputs.sight import Sight, is_older
from sidecar.ports import Finding, Grade

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.clients.kubernetes import Kubernetes, Secret
    from sidecar.clock import Clock
    from sidecar.config.settings import OutputTarget, SecretKey
    from sidecar.outputs.sight import Seen
    from sidecar.ports import Holding, Publication

RACES = 5
"""Changes by others in a row before a publication is left to the next turn."""


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
        self._index = Index(state_dir, self.id)
        # A name of an annotation is short, and a key may be long.
        self._annotation = f"token-sidecar/published-{hashlib.sha256(place.key.encode()).hexdigest()[:16]}"
        self._sight = Sight(self._format, self._index, clock)

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
            if is_older(entry, seen.entry):
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

    async def diagnose(self) -> list[Finding]:
        """See `SupportsDiagnosis`: a PATCH with `dryRun=All` takes the same rights, and does nothing."""
        try:
            secret, seen = await self._get()
            self._check(secret, seen.content or b"")
            await self._api.change_secret(
                self._namespace, self._name, annotations={self._annotation: None}, dry_run=True
            )
        except Fault as fault:
            passes = fault.kind in {Kind.CONFLICT, Kind.TEMPORARY, Kind.UNREACHABLE}
            return [Finding(Grade.FAILED, fault.reason, fault.remedy, exit_code=4 if passes else 1)]
        except OutputError as error:
            reason, _, remedy = str(error).removeprefix(f"{self.id}: ").partition("; ")
            return [Finding(Grade.FAILED, reason, remedy)]
        return [Finding(Grade.OK, "the Secret is there, and this key of it can be written; nothing was")]

    async def look(self) -> None:
        """See `RemoteOutput.look`."""
        await self._get()

    async def read_back(self) -> Holding:
        """See `RemoteOutput`. What another daemon published is known as well as what this one did."""
        return self._sight.holding()

    async def _get(self) -> tuple[Secret, Seen]:
        try:
            secret = await self._api.get_secret(self._namespace, self._name)
        except Fault as fault:
            if fault.kind is Kind.MISSING:
                self._sight.note(None, problem="does not exist")
            raise self._failed(fault) from None
        return secret, self._notice(secret)

    def _notice(self, secret: Secret) -> Seen:
        content = secret.data.get(self._key)
        missing = "is empty" if content is not None else f"is missing: the Secret has no key {self._key}"
        entry = self._annotated(secret, content) if content else None
        return self._sight.note(content, problem=missing, entry=entry)

    def _annotated(self, secret: Secret, content: bytes) -> Entry | None:
        """Read what the annotation says, if it is of this content."""
        try:
            entry = msgspec.json.decode(secret.annotations.get(self._annotation, ""), type=Entry)
        except (msgspec.MsgspecError, RecursionError):
            return None
        return entry if entry.digest == digest(content) else None

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
