"""A daemon's ports, each of which may fail, hang, freeze the daemon or kill it, before or after its work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import trio

from sidecar.errors import EscrowError, NoAnswer, NotSent, OutputError, StoreError, Unwritten
from sidecar.escrow import Escrow, Slip
from sidecar.grants.endpoint import silent
from sidecar.ports import Answer, Gate, Held, Holding, Publication, Seeding
from sidecar.testing import NoAnswer as Cut
from sidecar.testing import request_token
from sidecar.tokens import Attempt, Record, RefreshToken
from tests.simulation import faults
from tests.simulation.plan import Disturbance

if TYPE_CHECKING:
    from tests.simulation.judge import Call, Judge
    from tests.simulation.world import Process, Token, World


T = TypeVar("T")


class Connection:
    """One daemon's way to the store."""

    kind = "memory"
    volatile = True

    def __init__(self, world: World, judge: Judge, process: Process) -> None:
        self._world, self._judge, self._process = world, judge, process

    async def load(self, key: str) -> Held | None:
        return await self._asked(key, "load", lambda: self._world.rows.load(key))

    async def write(self, key: str, record: Record, *, expected: str | None, lease: float = 0.0) -> str:
        async def write() -> str:
            version = await self._world.rows.write(key, record, expected=expected, lease=lease)
            self._judge.written(self._process, _name(key), record)
            return version

        return await self._asked(key, "lease" if lease else "commit", write)

    async def _asked(self, key: str, port: str, act: Callable[[], Awaitable[T]]) -> T:
        world, process, token = self._world, self._process, _name(key)
        with process.mortal():
            hit = world.draw(process, token, port, faults.LOAD if port == "load" else faults.WRITE)
            self._judge.hindered(token, hit)
            await _before(world, process, hit)
            if hit is not None and hit.what == "refused":
                raise Unwritten("connection refused")
            world.reach_store(process.host)
            result = await act()
            await _after(world, process, hit)
            if hit is not None and hit.what == "severed":
                world.cut_off(process.host, hit.value)
            if hit is not None and hit.what in {"lost-reply", "severed"}:
                raise StoreError("the reply was lost")
            return result
        raise AssertionError("a process that is dead goes no further")


class Line:
    """One daemon's way to the provider, for one token."""

    uses_refresh_token = True
    endpoint = "https://provider.example"
    token_url = "https://provider.example/token"
    issuer = ""
    files: tuple[Path, ...] = ()

    def __init__(self, world: World, judge: Judge, process: Process, token: Token) -> None:
        self.tell: Callable[[str], None] = silent
        self._world, self._judge, self._process, self._token = world, judge, process, token

    def credentials_fingerprint(self) -> str:
        return "same"

    def client_id(self) -> str:
        return self._world.provider.config.client_id

    async def locate(self) -> None:
        """Its endpoint is known."""

    async def call(self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float) -> Answer:
        world, process = self._world, self._process
        assert refresh is not None
        with process.mortal():
            hit = self._draw("connect", faults.CONNECT)
            await _before(world, process, hit)
            if hit is not None and hit.what == "unreachable":
                await trio.sleep(send_timeout)
                raise NotSent("connection refused")
            gate.open()
            call = self._judge.sends(process, self._token.name, refresh)
            try:
                return await self._exchange(refresh, call)
            except BaseException:
                call.lost(world.now())
                raise
        raise AssertionError("a process that is dead goes no further")

    async def _exchange(self, refresh: RefreshToken, call: Call) -> Answer:
        world, process, host = self._world, self._process, self._process.host
        world.strike(process, self._draw("send", faults.SEND))
        # Behind the gate: this is window W5.
        call.frozen = await world.stand(host)
        sent_at = host.clock.wall()
        self._spoil(refresh)
        world.note(f"{host.name} sends {refresh.fingerprint} for {self._token.name}", loud=False)
        config = world.provider.config
        form = {
            "grant_type": "refresh_token",
            "client_id": config.client_id,
            "client_secret": config.client_secret or "",
            "refresh_token": refresh.value,
        }
        try:
            with anyio.fail_after(300):
                reply = await request_token(world.provider, form)
        except (Cut, TimeoutError):
            world.note(f"{host.name} gets no answer for {self._token.name}")
            raise NoAnswer("no answer came") from None
        hit = self._draw("receive", faults.RECEIVE)
        await _before(world, process, hit)
        await _after(world, process, hit)
        headers = {name.lower(): value for name, value in reply.headers.items()}
        answer = Answer(reply.status, headers, reply.body, sent_at, host.clock.wall())
        self._judge.receives(call, answer)
        return answer

    def _draw(self, port: str, menu: tuple[faults.Chance, ...]) -> Disturbance | None:
        hit = self._world.draw(self._process, self._token.name, port, menu)
        self._judge.hindered(self._token.name, hit)
        return hit

    def _spoil(self, refresh: RefreshToken) -> None:
        hit = self._draw("answer", faults.ANSWER)
        if hit is not None:
            self._world.provider.add_fault(faults.ANSWERS[hit.what](hit.value))
            assert len(self._world.provider._faults) == 1, refresh


class Vault(Escrow):
    """A daemon's escrow, on a volume that may be full or broken."""

    def __init__(self, world: World, judge: Judge, process: Process) -> None:
        super().__init__(process.host.directory)
        self.world, self.judge, self.process = world, judge, process

    def arm(self, key: str, base: Record, attempt: Attempt) -> Slip:
        slip = self.struck(_name(key), "arm", lambda: super(Vault, self).arm(key, base, attempt))
        return GuardedSlip(self, _name(key), slip)

    def struck(self, token: str, port: str, act: Callable[[], T]) -> T:
        """Do something that the script may spoil."""
        hit = self.world.draw(self.process, token, port, faults.ESCROW)
        self.judge.hindered(token, hit)
        self.world.strike(self.process, hit)
        if hit is not None and hit.what == "broken":
            raise EscrowError("the volume is broken")
        result = act()
        self.world.strike(self.process, hit, after=True)
        return result


class GuardedSlip(Slip):
    """The handle of an entry on such a volume."""

    __slots__ = ("_inner", "_name", "_vault")

    def __init__(self, vault: Vault, name: str, inner: Slip) -> None:
        super().__init__(inner._path, inner._offset, inner._sealer, inner._purpose)
        self._vault, self._name, self._inner = vault, name, inner

    def sent(self) -> None:
        self._vault.struck(self._name, "mark", super().sent)

    def answered(self, answer: Answer) -> None:
        def keep() -> None:
            Slip.answered(self, answer)
            judge.keeps(process, self._name, in_escrow=True)

        judge, process = self._vault.judge, self._vault.process
        try:
            self._vault.struck(self._name, "keep", keep)
        except EscrowError:
            judge.keeps(process, self._name, in_escrow=False)
            raise
        except BaseException:
            judge.drops(process, self._name)
            raise

    def release(self) -> None:
        try:
            self._vault.struck(self._name, "release", super().release)
        except EscrowError:
            # As with a volume that went read-only: the file stays behind, and nobody is told.
            self.held = False


class Window:
    """An output whose readers use what they find, at a provider that notices."""

    required = True
    adopt = False

    def __init__(self, world: World, judge: Judge, process: Process, token: Token) -> None:
        self.id = f"file:/run/tokens/{token.name}"
        self._world, self._judge, self._process, self._token = world, judge, process, token
        self.publications = process.host.shelves.setdefault(token.name, [])

    async def publish(self, publication: Publication) -> bool:
        world, process = self._world, self._process
        if self.publications and self.publications[-1] == publication:
            return False
        with process.mortal():
            hit = world.draw(process, self._token.name, "publish", faults.PUBLISH)
            self._judge.hindered(self._token.name, hit)
            await _before(world, process, hit)
            if hit is not None and hit.what == "broken":
                raise OutputError("the volume is broken")
            self.publications[:] = [publication]
            world.provider.resource(f"Bearer {publication.access.value}")
            await _after(world, process, hit)
        return True

    async def read_back(self) -> Holding:
        if not self.publications:
            return Holding(problem="missing")
        last = self.publications[-1]
        return Holding(last.access.fingerprint, last.lineage, last.access.expires_at, mark=last.mark)


class SeedFile:
    """The seed that an operator left, the same one on every host."""

    def __init__(self, world: World, token: Token) -> None:
        self.id = f"seed:{token.name}"
        self.missing = ""
        self._world, self._token = world, token

    async def read(self) -> Seeding | None:
        return Seeding(RefreshToken(self._token.file, self._world.now()))


async def _before(world: World, process: Process, hit: Disturbance | None) -> None:
    """Let a port be struck on the way in."""
    world.strike(process, hit)
    await world.stand(process.host)
    if hit is not None and hit.what == "late":
        await trio.sleep(hit.value)


async def _after(world: World, process: Process, hit: Disturbance | None) -> None:
    """Let a port be struck on the way out."""
    if hit is not None and hit.what == "late-reply":
        await trio.sleep(hit.value)
    world.strike(process, hit, after=True)
    await world.stand(process.host)


def _name(key: str) -> str:
    return key.partition("/")[2]
