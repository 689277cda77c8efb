"""The memory of what was published to one output.

It tells our own content from anybody else's, and knows the expiry of formats that carry none. It is written
*before* the output and keeps what the output held until then, so that whichever of the two a SIGKILL leaves
in place is recognised. It holds digests and fingerprints, no secrets.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from sidecar.files import UnfitFile, directory, read_small, replace_file, sweep
from sidecar.ports import Holding, Mark
from sidecar.tokens import ExpirySource, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.ports import Publication


FOLDER = "outputs"
"""In `state_dir`."""
_KEPT = 3


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One content that was, or was about to be, published."""

    digest: str
    """SHA-256 of the whole content."""
    fingerprint: str
    lineage: str
    generation: int
    expires_at: float | None
    expiry_source: ExpirySource
    seeds: int = 0
    issued_at: float = 0.0

    @classmethod
    def of(cls, publication: Publication, content_digest: str) -> Entry:
        """Describe a publication."""
        access = publication.access
        return cls(
            digest=content_digest,
            fingerprint=fingerprint(access.value),
            lineage=publication.lineage,
            generation=publication.generation,
            expires_at=access.expires_at,
            expiry_source=access.expiry_source,
            seeds=publication.seeds,
            issued_at=access.issued_at,
        )

    @property
    def mark(self) -> Mark:
        """How far the record had come."""
        return Mark(self.lineage, self.generation, self.seeds, self.issued_at)

    @property
    def holding(self) -> Holding:
        """What readers of this content have."""
        known = self.expiry_source is not ExpirySource.ASSUMED
        return Holding(
            fingerprint=self.fingerprint,
            lineage=self.lineage,
            expires_at=self.expires_at if known else None,
            never_expires=known and self.expires_at is None,
        )


class _Page(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    path: str
    entries: tuple[Entry, ...]
    read: bool = False
    """See `Index.read`."""


def digest(content: bytes) -> str:
    """Name a content."""
    return hashlib.sha256(content).hexdigest()


def published(state_dir: Path) -> Iterator[str]:
    """Go through all places that were published to from this `state_dir`, as the indexes name them."""
    for file in sorted((state_dir / FOLDER).glob("*.json")):
        with suppress(OSError, UnfitFile, msgspec.MsgspecError, UnicodeDecodeError):
            yield msgspec.json.decode(read_small(file, follow=False).data, type=_Page).path


class Index:
    """One small file in `state_dir/outputs`, and a copy of it in memory."""

    __slots__ = ("_entries", "_place", "_state_dir", "_stored", "problem", "read")

    def __init__(self, state_dir: Path, path: Path | str, *, swept: bool = False) -> None:
        """Load what an earlier run left; an index that can't be read is an empty one. `swept`: see `open_output`."""
        self.problem: str | None = None
        """Why the last write failed; the copy in memory serves meanwhile, the next publication retries."""
        self._place = str(path)
        self._state_dir = state_dir
        self.read = False
        """Whether it was ever seen that somebody read what was published. It is stored with the next publication."""
        self._entries: tuple[Entry, ...] = ()
        self._stored: _Page | None = None
        if not swept:
            sweep(self._folder, self._name)
        try:
            page = msgspec.json.decode(read_small(self._folder / self._name, follow=False).data, type=_Page)
        except (OSError, UnfitFile, msgspec.MsgspecError, UnicodeDecodeError):
            return
        if page.path == self._path:
            self._entries, self.read, self._stored = page.entries, page.read, page

    @property
    def _path(self) -> str:
        # Of a file it is kept as its output's id is, which is the same object then.
        return self._place.removeprefix("file:")

    @property
    def _folder(self) -> Path:
        return self._state_dir / FOLDER

    @property
    def _name(self) -> str:
        return hashlib.sha256(os.fsencode(self._path)).hexdigest()[:32] + ".json"

    @property
    def mark(self) -> Mark | None:
        """How far the record had come at the latest publication; None: there was none."""
        return self._entries[0].mark if self._entries else None

    @property
    def newest(self) -> str | None:
        """The digest of what was published last, or was about to be; None: nothing was."""
        return self._entries[0].digest if self._entries else None

    def find(self, content_digest: str) -> Entry | None:
        """Return what is known of a content; None: it is not ours."""
        return next((entry for entry in self._entries if entry.digest == content_digest), None)

    def expect(self, entry: Entry, *, in_place: str | None) -> None:
        """Note what is about to be published, keeping the entry of what is `in_place` (its digest) so far.

        None: that could not be read just now, so it may be any of those that are known.
        """
        others = [known for known in self._entries if known.digest != entry.digest]
        if in_place is not None:
            others = [known for known in others if known.digest == in_place]
        self._entries = (entry, *others[:_KEPT])
        page = _Page(self._path, self._entries, self.read)
        if page != self._stored:
            self._store(page)

    def forget(self) -> None:
        """Know nothing any more of what was published: it was taken away."""
        self._entries, self._stored, self.read = (), None, False
        with suppress(OSError):
            (self._folder / self._name).unlink(missing_ok=True)

    def _store(self, page: _Page) -> None:
        # A failure must not keep a fresh token from its readers, so it is told of and not raised.
        try:
            # One by one: `parents=True` gives the parents it makes the default mode.
            self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with directory(self._folder) as folder:
                replace_file(folder, self._name, msgspec.json.encode(page), mode=0o600)
        except OSError as error:
            self.problem = f"output index {self._folder / self._name}: {error.strerror}"
        else:
            self._stored, self.problem = page, None
