"""The daemon proves who its client is, and goes on doing so while keys, secrets and certificates are replaced."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.errors import SidecarError
from sidecar.testing import Simulator
from sidecar.testing.config import ClientAuth
from tests import pki
from tests.e2e.conftest import EAGER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Daemon, MakeSimulator

KEY_JWT = frozenset({ClientAuth.PRIVATE_KEY_JWT})


def put(path: Path, content: bytes | str) -> Path:
    """Replace a file as whole, as whoever renews secrets should."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.chmod(0o600)
    temporary.replace(path)
    return path


@pytest.fixture
def signed(make_simulator: MakeSimulator) -> Iterator[Simulator]:
    """Give a provider that rotates, and takes nothing but assertions signed with the client's key."""
    public = pki.public_pem(pki.rsa_key(2048, 0)).decode()
    made = make_simulator(client_secret=None, client_public_key=public, client_auth=KEY_JWT)
    made.provider.reconfigure(audience=made.token_url)
    yield made
    made.stop()


def outcomes(simulator: Simulator) -> list[str]:
    """Return what became of each request."""
    return [request.outcome for request in simulator.provider.report().requests]


def with_key(daemon: Daemon, simulator: Simulator, **client: Any) -> Path:
    """Configure a token whose client signs with a key; return the key's file."""
    key = put(daemon.folder / "key.pem", pki.pem(pki.rsa_key(2048, 0)))
    named = {"id": "sim-client", "auth_method": "private_key_jwt", "private_key_file": str(key), **client}
    daemon.add(simulator, client=named, **EAGER)
    return key


def test_a_signing_client_rotates_and_changes_its_key(daemon: Daemon, signed: Simulator) -> None:
    """Each refresh has an assertion of its own; a new key counts as soon as it is in the file."""
    key = with_key(daemon, signed, key_id="k1")
    daemon.start()
    daemon.wait_until(lambda: daemon.status()["generation"] >= 3, "it was refreshed again")
    assert set(outcomes(signed)) == {"rotated"}
    assert {request.client_auth for request in signed.provider.report().requests} == KEY_JWT

    signed.provider.reconfigure(client_public_key=pki.public_pem(pki.rsa_key(2048, 1)).decode())
    daemon.wait_until(lambda: "invalid_client" in outcomes(signed), "the old key is refused")
    before = daemon.status()["generation"]
    put(key, pki.pem(pki.rsa_key(2048, 1)))
    daemon.wait_until(lambda: daemon.status()["generation"] > before, "the new key is taken")
    assert outcomes(signed).count("invalid_client") == 1
    assert signed.provider.reused() == []


def test_a_secret_is_replaced_without_a_gap(daemon: Daemon, simulator: Simulator) -> None:
    """The provider changes over from one secret to the next: one request is refused, and the next one isn't."""
    new = "sim-cs-the-one-that-comes-next"
    current = put(daemon.folder / "current", simulator.provider.config.client_secret or "")
    files = [current, put(daemon.folder / "next", new)]
    client = {"id": "sim-client", "secret_files": [str(path) for path in files]}
    daemon.add(simulator, client=client, **EAGER)
    daemon.start()
    assert set(outcomes(simulator)) == {"rotated"}

    simulator.provider.reconfigure(client_secret=new)
    daemon.wait_until(lambda: "invalid_client" in outcomes(simulator), "the old secret is refused")
    # Well before the back-off of half a minute and more would be over.
    daemon.wait_until(lambda: outcomes(simulator)[-1] == "rotated", "the new one is taken")
    refused = outcomes(simulator).index("invalid_client")
    daemon.wait_until(lambda: len(outcomes(simulator)) > refused + 3, "it goes on")
    assert set(outcomes(simulator)[refused + 1 :]) == {"rotated"}
    assert daemon.answers("/readyz")
    assert f"client.secret_files[0] ({files[0]}) was refused; trying client.secret_files[1]" in daemon.text()
    assert simulator.provider.reused() == []


def test_an_expired_certificate_costs_no_request(daemon: Daemon, signed: Simulator) -> None:
    """It is told once and in words, the grant is left alone, and a renewed certificate is enough to go on."""
    authority, place = pki.Authority(), daemon.folder / "tls.crt"
    signing = pki.rsa_key(2048, 0)
    put(place, authority.issue("sim-client", signing).certificate)
    with_key(daemon, signed, certificate_file=str(place))
    daemon.start()

    put(place, authority.issue("sim-client", signing, begins=-2 * pki.DAY, ends=-pki.DAY).certificate)
    daemon.wait_until(lambda: "expired on" in daemon.status()["reason"], "it is told")
    before = len(outcomes(signed))
    with pytest.raises(
        SidecarError, match=rf"client\.certificate_file {place}: expired on .*put a new one there"
    ):
        daemon.control.refresh("gmail")
    assert len(outcomes(signed)) == before

    put(place, authority.issue("sim-client", signing, ends=timedelta(days=2)).certificate)
    daemon.wait_until(lambda: len(outcomes(signed)) > before + 1, "it goes on")
    assert set(outcomes(signed)) == {"rotated"}
    assert signed.provider.reused() == []
