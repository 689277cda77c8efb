"""A grant whose answers a test writes itself, for providers that the simulator doesn't act."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidecar.grants.endpoint import silent
from sidecar.ports import Answer, Gate, Grant
from sidecar.tokens import RefreshToken
from tests.engine.conftest import VirtualClock

Script = Callable[[float, RefreshToken | None], "dict[str, Any] | tuple[int, bytes]"]
"""(Unix time, what was sent) → the members of a success, or status and body."""


class Scripted:
    """Answers by a script."""

    uses_refresh_token = True
    endpoint = "https://provider.example"
    token_url = "https://provider.example/token"
    issuer = ""
    files: tuple[Path, ...] = ()

    def __init__(self, clock: VirtualClock, script: Script) -> None:
        self.clock = clock
        self.tell: Callable[[str], None] = silent
        self.script = script
        self.calls: list[float] = []
        self.sent: list[str] = []

    def credentials_fingerprint(self) -> str:
        return "one"

    def client_id(self) -> str:
        return "client"

    async def locate(self) -> None:
        """Its endpoint is known."""

    async def call(self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float) -> Answer:
        del send_timeout
        gate.open()
        now = self.clock.wall()
        self.calls.append(now)
        self.sent.append(refresh.value if refresh is not None else "")
        told = self.script(now, refresh)
        status, body = told if isinstance(told, tuple) else (200, json.dumps(told).encode())
        return Answer(status, {}, body, now, now)


_: type[Grant] = Scripted
