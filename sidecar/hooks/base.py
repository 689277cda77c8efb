"""What hooks have in common: what their settings say of them, and a memory for those who have none."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from sidecar.files import UnfitFile, directory, read_small, replace_file
from sidecar.ports import Mark

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config.settings import HookSettings
    from sidecar.ports import Occasion


class BaseHook:
    """Named, timed and limited as its settings say."""

    def __init__(self, settings: HookSettings) -> None:
        """Take over what the settings say."""
        self.id = settings.label
        self.by_lineage = settings.when == "lineage"
        self.timeout = float(settings.timeout)
        self.attempts = settings.attempts


class NearbyHook(BaseHook, ABC):
    """Tells somebody who doesn't know which token he was told of, so that it is remembered for him.

    Otherwise each start of the daemon would tell him again, and so would each `run --once` of a cron job that had
    nothing to refresh. What he was told of is one small file in `state_dir`.
    """

    def __init__(self, settings: HookSettings, token: str, state_dir: Path) -> None:
        """Remember what an earlier run told; what can't be read is told again."""
        super().__init__(settings)
        self._folder = state_dir / "hooks"
        self._name = hashlib.sha256(f"{token}\0{self.id}".encode()).hexdigest()[:32] + ".json"
        self._told: Mark | None = None
        with suppress(OSError, UnfitFile, msgspec.MsgspecError, UnicodeDecodeError):
            page = read_small(self._folder / self._name, follow=False)
            self._told = msgspec.json.decode(page.data, type=Mark)

    async def run(self, occasion: Occasion) -> bool:
        """See `Hook.run`."""
        if not occasion.mark.is_news_after(self._told, by_lineage=self.by_lineage):
            return False
        await self.tell(occasion)
        self._told = occasion.mark
        # To tell twice is better than to fail where nothing failed; a state_dir in trouble is told of by escrow.
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with directory(self._folder) as folder:
                replace_file(folder, self._name, msgspec.json.encode(occasion.mark), mode=0o600)
        return True

    @abstractmethod
    async def tell(self, occasion: Occasion) -> None:
        """Do it, this once. Raises `HookError`."""
