"""A seed file. Links are followed: it is the operator's, and Kubernetes mounts Secrets behind links."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from sidecar.errors import SeedError
from sidecar.files import Signature, UnfitFile, read_small, signature
from sidecar.seeds import parse_named

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config.settings import SeedSource
    from sidecar.ports import Seeding


class FileSeed:
    """Read again only when its stat has changed. See `Seed` for the contract."""

    def __init__(self, source: SeedSource, path: Path, *, living: bool = False) -> None:
        """See `sidecar.seeds.open_seed`."""
        self.id = f"file:{path}"
        self.missing = ""
        self._source = source
        self._path = path
        self._living = living
        self._cached: tuple[Signature, Seeding | str | None] | None = None

    async def read(self) -> Seeding | None:
        """See `Seed.read`."""
        return self.look()

    def look(self) -> Seeding | None:
        """Read it; short, and so without a thread."""
        path, self.missing = self._path, ""
        try:
            if self._cached and signature(path.stat()) == self._cached[0]:
                return self._told(self._cached[1])
            self._cached = None
            found = read_small(path, follow=True)
        except FileNotFoundError:
            self.missing = f"the seed {path} is not there yet"
            return None
        except UnfitFile as unfit:
            raise SeedError(f"seed {path}: {unfit}; name a regular file with the refresh token") from None
        except OSError as error:
            raise SeedError(f"seed {path}: {_explain(error)}") from error
        outcome: Seeding | str | None = None
        if found.data.strip():
            try:
                outcome = self._parse(found.data, found.stat.st_mtime)
            except SeedError as error:
                outcome = str(error)
        if found.settled:
            self._cached = (signature(found.stat), outcome)
        return self._told(outcome)

    def _parse(self, data: bytes, written_at: float) -> Seeding:
        place = f"seed {self._path}"
        return parse_named(
            data, self._source, place=place, named=self._path.name, written_at=written_at, living=self._living
        )

    def _told(self, outcome: Seeding | str | None) -> Seeding | None:
        if isinstance(outcome, str):
            raise SeedError(outcome)
        if outcome is None:
            self.missing = f"the seed {self._path} is empty"
        return outcome


def _explain(error: OSError) -> str:
    if error.errno == errno.EACCES:
        me = f"uid {os.geteuid()}, gid {os.getegid()}"
        return f"the daemon ({me}) may not read it; give it read permission (chmod, chgrp, the pod's fsGroup)"
    if error.errno == errno.ELOOP:
        return "its symbolic links lead in a circle; correct them"
    if error.errno == errno.ENOTDIR:
        return "a part of the path is not a directory; correct the path"
    return f"it cannot be read ({error.strerror}); check the path and the volume"
