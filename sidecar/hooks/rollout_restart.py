"""Replaces the pods of a workload, for applications that read their token at the start only.

All daemons that share a grant come to know of its new token, and one restart is wanted. So the workload says in an
annotation for which token it was restarted, and whoever restarts it names the resource version that it has looked at:
of several, one does it, and the others find it done.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from sidecar.clients.kubernetes import Fault, Kind, own_namespace
from sidecar.errors import HookError
from sidecar.hooks.base import BaseHook
from sidecar.ports import Mark

if TYPE_CHECKING:
    from sidecar.clients.kubernetes import Kubernetes
    from sidecar.clock import Clock
    from sidecar.config.settings import HookSettings, RolloutRestart
    from sidecar.ports import Occasion

RACES = 5
"""Changes by others in a row before it is left to the next attempt."""
LONGEST_NAME = 63


class RolloutRestartHook(BaseHook):
    """`kubectl rollout restart`, once for each occasion. See `Hook` for the contract."""

    def __init__(
        self,
        settings: HookSettings,
        restart: RolloutRestart,
        api: Kubernetes,
        *,
        namespace: str,
        clock: Clock,
    ) -> None:
        """See `sidecar.hooks.open_hook`."""
        super().__init__(settings)
        self._kind, self._name = restart.workload
        self._namespace = restart.namespace or own_namespace()
        if settings.name is None:
            self.id = f"rollout_restart:{self._namespace}/{self._kind}/{self._name}"
        self._records = namespace
        self._api = api
        self._clock = clock

    async def run(self, occasion: Occasion) -> bool:
        """See `Hook.run`."""
        annotation = annotation_of(f"{self._records}.{occasion.token}")
        try:
            for _ in range(RACES):
                seen = await self._api.get_workload(self._kind, self._namespace, self._name)
                known = _read(seen.annotations.get(annotation, ""))
                if not occasion.mark.is_news_after(known, by_lineage=self.by_lineage):
                    return False
                at = datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="seconds")
                note = {annotation: msgspec.json.encode(occasion.mark).decode()}
                try:
                    await self._api.restart_workload(self._kind, seen, note, at=at.replace("+00:00", "Z"))
                except Fault as fault:
                    if fault.kind is not Kind.CONFLICT:
                        raise
                else:
                    return True
        except Fault as fault:
            raise HookError(f"{self.id}: {fault}") from None
        raise HookError(f"{self.id}: it is changed by others faster than it can be restarted")


def annotation_of(key: str) -> str:
    """Name the annotation for the token of this key, whose own name may be no name for one."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", key)
    if name != key or len(name) > LONGEST_NAME:
        name = f"{name[:40]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return f"restarted-for.token-sidecar/{name}"


def _read(annotation: str) -> Mark | None:
    try:
        return msgspec.json.decode(annotation, type=Mark)
    except (msgspec.MsgspecError, RecursionError):
        return None
