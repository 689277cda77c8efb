"""The value of a secret in AWS Secrets Manager, of which members that are not ours stay as they are.

Several daemons may publish the same token to it. A tag says how far the record had come that was published last, and is
set before the value, so that one which has not heard of a refresh yet does not put the old token back. The id of a
version follows from what is in it: the second of two that publish the same adds none.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from typing import TYPE_CHECKING, NoReturn

import msgspec

from sidecar import formats
from sidecar.clients.aws import CURRENT, SETTLED_AFTER, TAG_LIMIT, VALUE_LIMIT, Fault, Kind
from sidecar.errors import FormatError, OutputError
from sidecar.formats.values import read_object
from sidecar.outputs import encoded
from sidecar.outputs.index import Entry, Index, digest
from sidecar.outputs.sight import Sight, is_older
from sidecar.ports import Finding, Grade

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.clients.aws import Described, SecretsManager
    from sidecar.clock import Clock
    from sidecar.config.settings import AwsSecret, OutputTarget
    from sidecar.ports import Holding, Publication

RACES = 5
"""Changes by others in a row before a publication is left to the next turn."""
PUBLISHED = "token-sidecar:published"
"""The tag that says what was published last."""
ADDED = "token-sidecar-added"
"""The label of the version that was added last, until AWSCURRENT comes to it."""


class AwsOutput:
    """One secret. See `RemoteOutput` for the contract."""

    adopt = False

    def __init__(
        self, target: OutputTarget, place: AwsSecret, api: SecretsManager, *, state_dir: Path, clock: Clock
    ) -> None:
        """See `sidecar.outputs.open_remote_output`."""
        self.id = f"aws:{place.name}"
        self.required = target.is_required
        self._name = place.name
        self._target = target
        self._format = formats.for_target(target)
        self._api = api
        self._index = Index(state_dir, self.id)
        self._sight = Sight(self._format, self._index, clock)
        self._version, self._content = "", b""
        """The version that was read last, which nobody can change, and what is in it."""
        self._clock = clock
        self._replaced, self._replaced_at = "", -math.inf
        """The version that was replaced last: for a while AWS may go on telling of it."""

    @property
    def index_problem(self) -> str | None:
        """Why the index in `state_dir` could not be written; None: it is as it should be."""
        return self._index.problem

    async def publish(self, publication: Publication) -> bool:
        """See `Output.publish`."""
        laid_out = encoded(publication, self._format, self._target, self.id)
        try:
            for _ in range(RACES):
                described, there = await self._get()
                content = _merged(there, laid_out)
                entry = Entry.of(publication, digest(content))
                if described is not None and is_older(entry, _tagged(described)):
                    return False
                self._index.expect(entry, in_place=digest(there))
                if there == content:
                    return False
                self._check(content, described)
                if await self._put(content, entry, described):
                    return True
        except Fault as fault:
            self._fail(fault)
        raise OutputError(f"{self.id}: the secret is changed by others faster than it can be written")

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
        """See `SupportsDiagnosis`: the version that is there is added again, which takes the right and does nothing."""
        try:
            described, there = await self._get()
            if described is None:
                text = "there is no such secret yet; whether it may be created shows when it is"
                return [Finding(Grade.SKIPPED, text, "create it, or allow secretsmanager:CreateSecret")]
            if described.current is not None and there:
                await self._api.put(self._name, there.decode(), version=described.current, stages=[CURRENT])
        except Fault as fault:
            passes = fault.kind in {Kind.TEMPORARY, Kind.UNREACHABLE}
            return [Finding(Grade.FAILED, fault.reason, fault.remedy, exit_code=4 if passes else 1)]
        return [Finding(Grade.OK, "the secret is there and can be written; nothing was")]

    async def _get(self) -> tuple[Described | None, bytes]:
        """Read what is there; None: there is no such secret."""
        try:
            described = await self._api.describe(self._name)
        except Fault as fault:
            if fault.kind is not Kind.MISSING:
                raise
            self._sight.note(None, problem="does not exist")
            return None, b""
        if described.deleted:
            raise Fault(
                Kind.DELETED,
                f"the secret {self._name}: it is marked for deletion",
                "restore it: aws secretsmanager restore-secret",
                refused=True,
            )
        if described.current is None:
            self._version, self._content = "", b""
        elif described.current != self._version and not self._lags(described.current):
            found = await self._api.value(self._name, described.current)
            self._version, self._content = found.version, (found.text or "").encode()
        entry = _tagged(described)
        known = entry if entry is not None and entry.digest == digest(self._content) else None
        self._sight.note(self._content, problem="is empty", entry=known)
        return described, self._content

    async def _put(self, content: bytes, entry: Entry, described: Described | None) -> bool:
        """Write it; returns False where somebody else was faster."""
        text = content.decode()
        version = hashlib.sha256(content).hexdigest()
        tags = _tag(entry)
        try:
            if described is None:
                await self._api.create(self._name, text, version=version, tags=tags)
            else:
                await self._api.tag(self._name, tags)
                await self._api.put(self._name, text, version=version, stages=[ADDED])
                if described.current is not None:
                    await self._api.move(self._name, CURRENT, to=version, away_from=described.current)
        except Fault as fault:
            if fault.kind in {Kind.MOVED, Kind.EXISTS}:
                return False
            raise
        self._version, self._content = version, content
        self._replaced = str(described.current) if described is not None else ""
        self._replaced_at = self._clock.boot()
        self._sight.note(content, entry=entry)
        return True

    def _lags(self, current: str) -> bool:
        return current == self._replaced and self._clock.boot() - self._replaced_at < SETTLED_AFTER

    def _check(self, content: bytes, described: Described | None) -> None:
        """Raise for a secret that must not, or can't, be written."""
        if len(content) > VALUE_LIMIT:
            raise OutputError(
                f"{self.id}: the secret would have {len(content)} bytes, and it holds {VALUE_LIMIT} at most; choose a "
                "format with fewer members"
            )
        if described is not None and described.rotates:
            raise OutputError(
                f"{self.id}: AWS's own rotation writes the secret, too, and would undo it; cancel that: "
                "aws secretsmanager cancel-rotate-secret"
            )

    def _fail(self, fault: Fault) -> NoReturn:
        raise OutputError(f"{self.id}: {fault}") from None


def _merged(there: bytes, laid_out: bytes) -> bytes:
    """Put our members among those that are there, where both are JSON objects."""
    try:
        others, ours = read_object(there), read_object(laid_out)
    except FormatError:
        return laid_out
    return json.dumps({**others, **ours}, allow_nan=False).encode()


def _tag(entry: Entry) -> dict[str, str]:
    text = base64.urlsafe_b64encode(msgspec.json.encode(entry)).decode()
    pieces = [text[at : at + TAG_LIMIT] for at in range(0, len(text), TAG_LIMIT)]
    named = {f"{PUBLISHED}-{number + 1}": piece for number, piece in enumerate(pieces)}
    return {PUBLISHED: str(len(pieces)), **named}


def _tagged(described: Described) -> Entry | None:
    """Read what was published last, or was about to be."""
    count = described.tags.get(PUBLISHED, "")
    pieces = range(int(count) if re.fullmatch("[1-9]", count) else 0)
    try:
        text = "".join(described.tags.get(f"{PUBLISHED}-{number + 1}", "") for number in pieces)
        return msgspec.json.decode(base64.urlsafe_b64decode(text), type=Entry)
    except (ValueError, msgspec.MsgspecError):
        return None
