"""Tells an application over HTTP, as `curl -X POST` would.

Of the answer nothing but its status is looked at: what else is in it may be a secret of the application's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sidecar.clients.http import Open, Request, Sealed
from sidecar.errors import CallError, HookError
from sidecar.hooks.base import NearbyHook

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sidecar.clients.http import HttpClient
    from sidecar.config.settings import HookSettings, HttpCall
    from sidecar.ports import Occasion

_WITHOUT_BODY = ("GET", "DELETE")


class HttpHook(NearbyHook):
    """One request. See `Hook` for the contract."""

    def __init__(
        self,
        settings: HookSettings,
        call: HttpCall,
        http: HttpClient,
        *,
        token: str,
        state_dir: Path,
        files: Sequence[str],
    ) -> None:
        """See `sidecar.hooks.open_hook`."""
        super().__init__(settings, token, state_dir)
        self._call = call
        self._http = http
        self._files = files

    async def tell(self, occasion: Occasion) -> None:
        """See `NearbyHook.tell`."""
        try:
            answer = await self._http.send(self._request(occasion), gate=Open(), send_timeout=self.timeout)
        except CallError as error:
            raise HookError(f"{self.id}: {error}") from None
        if answer.status not in (self._call.expect or range(200, 300)):
            raise HookError(f"{self.id}: it answered {answer.status}; {_way_out(answer.status)}")

    def _request(self, occasion: Occasion) -> Request:
        kind, content = "text/plain; charset=utf-8", self._call.body
        if content is None and self._call.method not in _WITHOUT_BODY:
            mark = occasion.mark
            told = {"token": occasion.token, "lineage": mark.lineage, "generation": mark.generation}
            kind, content = "application/json", json.dumps({**told, "outputs": list(self._files)})
        headers = {name.title(): value for name, value in self._call.headers.items()}
        if content is not None:
            headers = {"Content-Type": kind, **headers}
        return Request(
            self._call.url,
            headers=Sealed({"Accept": "*/*", **headers}),
            method=self._call.method,
            content=b"" if content is None else content.encode(),
        )


def _way_out(status: int) -> str:
    match status:
        case 301 | 302 | 303 | 307 | 308:
            return "no redirect is followed: correct `url`, or name that status under `expect`"
        case 401 | 403:
            return "say who we are by `headers`"
        case 404 | 405:
            return "correct `url` or `method`"
        case _:
            return "look into the application's own log, or name that status under `expect`"
