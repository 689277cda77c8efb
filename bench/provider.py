"""A token endpoint that does nothing but answer, and counts: `python -m bench.provider LIFE` prints its port.

It rotates at every use. A refresh token names its account, its generation and when the access token beside it is due,
so that nothing has to be looked up to tell how late a request is, and whether a refresh token came twice.

`GET /report` returns what was counted since it was last asked. `POST /behave` takes a `Behaviour`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from contextlib import suppress
from urllib.parse import parse_qs

import msgspec

from sidecar import schedule
from sidecar.profile import Profile
from sidecar.schedule import Policy
from sidecar.tokens import fingerprint

LENGTH = 220
"""Characters of an access token: as many as Google's have."""
PROFILE = Profile(title="bench")


class Behaviour(msgspec.Struct):
    """How requests are answered."""

    down: bool = False
    """With 503."""
    rate: float = 0.0
    """Requests a second, above which 429 is the answer; 0: any number."""
    retry_after: int = 0
    """Seconds, told with 429 and 503; 0: not told."""
    latency: float = 0.0
    """Seconds until an answer."""


class Report(msgspec.Struct):
    """What was counted."""

    seconds: float
    lateness: list[float]
    """Seconds from when a token was due until it was asked for, of each refresh."""
    reused: int
    """Refresh tokens that came a second time."""
    refused: int
    """Requests that were answered with 429 or 503."""
    most: int
    """Requests that were under way at once."""
    fullest: int
    """Requests in the second that had most of them."""


class Minted(msgspec.Struct):
    """An access token, and the refresh token that goes with it."""

    access: str
    refresh: str
    due: float


def minted(account: int, generation: int, issued_at: float, life: float) -> Minted:
    """Make the tokens of an account, which are due when the daemons will find that they are."""
    access = f"sim-at-{account:08d}-{generation:08d}-".ljust(LENGTH, "x")
    times = schedule.timing(Policy(), PROFILE, life)
    jitter = schedule.jitter("", fingerprint(access))
    due = min(
        life * times.refresh_at * (1 - jitter * schedule.JITTER_WIDTH),
        life - times.min_validity - times.lease,
    )
    return Minted(
        access, f"sim-rt-{account:08d}-{generation:08d}-{1000 * (issued_at + due):.0f}", issued_at + due
    )


class Provider:
    """What is known of all grants."""

    def __init__(self, life: float) -> None:
        """`life`: of access tokens, in seconds."""
        self._life = life
        self._newest: dict[int, int] = {}
        self.behaviour = Behaviour()
        self.under_way = 0
        self._seconds: dict[int, int] = {}
        self._forget()

    def _forget(self) -> None:
        self._since = time.time()
        self._lateness = array("d")
        self._reused = self._refused = self._most = self._fullest = 0

    def report(self) -> bytes:
        """Tell what was counted, and begin anew."""
        told = Report(
            time.time() - self._since,
            self._lateness.tolist(),
            self._reused,
            self._refused,
            self._most,
            self._fullest,
        )
        self._forget()
        return msgspec.json.encode(told)

    def token(self, form: bytes) -> tuple[int, bytes]:
        """Answer a refresh."""
        now, how = time.time(), self.behaviour
        self._most = max(self._most, self.under_way)
        asked = self._seconds[int(now)] = self._seconds.pop(int(now), 0) + 1
        if len(self._seconds) > 1:
            self._seconds = {int(now): asked}
        self._fullest = max(self._fullest, asked)
        if how.down or (how.rate and asked > how.rate):
            self._refused += 1
            return (503 if how.down else 429), b"{}"
        [refresh] = parse_qs(form.decode())["refresh_token"]
        account, generation, due = (int(part) for part in refresh.removeprefix("sim-rt-").split("-"))
        self._reused += generation < self._newest.get(account, 0)
        self._newest[account] = generation + 1
        self._lateness.append(now - due / 1000)
        next_one = minted(account, generation + 1, now, self._life)
        answer = {
            "access_token": next_one.access,
            "refresh_token": next_one.refresh,
            "expires_in": self._life,
            "token_type": "Bearer",
        }
        return 200, msgspec.json.encode(answer)


class Connection(asyncio.Protocol):
    """One request on one connection."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._data = b""
        self._transport: asyncio.Transport
        self._done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._provider.under_way += 1

    def connection_lost(self, _: Exception | None) -> None:
        self._provider.under_way -= 1

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end or self._done:
            return
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(body) < length:
            return
        self._done = True
        latency = self._provider.behaviour.latency
        place = head.split(b" ", 2)[1]
        if latency and place == b"/token":
            asyncio.get_running_loop().call_later(latency, self._answer, place, body)
        else:
            self._answer(place, body)

    def _answer(self, place: bytes, body: bytes) -> None:
        status, content = 200, b"{}"
        if place == b"/token":
            status, content = self._provider.token(body)
        elif place == b"/report":
            content = self._provider.report()
        else:
            self._provider.behaviour = msgspec.json.decode(body, type=Behaviour)
        wait = self._provider.behaviour.retry_after if status != 200 else 0
        told = f"Retry-After: {wait}\r\n" if wait else ""
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n{told}Content-Length: {len(content)}\r\n"
        with suppress(OSError):
            self._transport.write(f"{head}Connection: close\r\n\r\n".encode() + content)
        self._transport.close()


async def serve(life: float) -> None:
    """Serve until the process ends."""
    provider = Provider(life)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(provider), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
