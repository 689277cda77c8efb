"""The simulator over real sockets: endpoints, faults below HTTP, control from outside, restarts."""

from __future__ import annotations

import json
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest

from sidecar.profile import BodyKind, Profile
from sidecar.testing import (
    Delivery,
    Fate,
    Fault,
    Provider,
    ProviderConfig,
    Simulator,
    faults,
    fingerprint,
    server,
)
from sidecar.testing.__main__ import main
from sidecar.testing.files import write_private


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """Serve a provider with a public client, which needs no header."""
    simulator = Simulator(ProviderConfig(client_secret=None))
    with simulator.serve():
        yield simulator


@pytest.fixture
def client(simulator: Simulator) -> Iterator[httpx2.Client]:
    """Talk to it, patiently."""
    with httpx2.Client(base_url=simulator.url, timeout=10) as client:
        yield client


def refresh(client: httpx2.Client, token: str, **options: Any) -> httpx2.Response:
    """Redeem a refresh token."""
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": "sim-client"}
    return client.post("/token", data=form, **options)


def credentials(client: httpx2.Client, **options: Any) -> httpx2.Response:
    """Ask for an access token with nothing but the client's name."""
    return client.post(
        "/token", data={"grant_type": "client_credentials", "client_id": "sim-client"}, **options
    )


def fate_of_last(provider: Provider) -> Fate:
    """Tell what became of the last answer, once that is known."""
    assert provider.wait_until(lambda: provider.report().in_flight == 0)
    return provider.report().requests[-1].fate


def test_a_token_that_was_refreshed_opens_the_resource(simulator: Simulator, client: httpx2.Client) -> None:
    """The whole way: grant, refresh, use, and a refusal for anything else."""
    reply = refresh(client, simulator.provider.new_grant("mail"))
    bearer = {"Authorization": f"Bearer {reply.json()['access_token']}"}
    assert client.get("/resource", headers=bearer).status_code == 200
    assert client.get("/resource", headers={"Authorization": "Bearer sim-at-wrong"}).status_code == 401
    assert client.get("/resource").status_code == 401
    assert simulator.provider.report().resource_granted == 1
    assert simulator.provider.report().resource_denied == 2


def test_basic_authentication_is_form_encoded() -> None:
    """A secret with reserved characters works as RFC 6749 section 2.3.1 says."""
    simulator = Simulator(ProviderConfig(client_id="my client", client_secret="sim-cs-%+:/"))
    with simulator.serve() as url:
        form = {"grant_type": "client_credentials"}
        encoded = httpx2.post(f"{url}/token", data=form, auth=("my+client", "sim-cs-%25%2B%3A%2F"))
        plain = httpx2.post(f"{url}/token", data=form, auth=("my client", "sim-cs-%+:/"))
    assert encoded.status_code == 200
    assert plain.status_code == 401


def test_introspection_and_revocation_have_endpoints(simulator: Simulator, client: httpx2.Client) -> None:
    """RFC 7662 and RFC 7009, at `/introspect` and `/revoke`."""
    form = {"token": simulator.provider.new_grant(), "client_id": "sim-client"}
    assert client.post("/introspect", data=form).json()["active"] is True
    assert client.post("/revoke", data=form).status_code == 200
    assert client.post("/introspect", data=form).json() == {"active": False}


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"grant_type=client_credentials&grant_type=client_credentials", "application/x-www-form-urlencoded"),
        (b"\xff", "application/x-www-form-urlencoded"),
        (b'{"grant_type": "client_credentials"}', "application/json"),
        (b"grant_type=&client_id=sim-client", "application/x-www-form-urlencoded"),
    ],
)
def test_malformed_requests_are_invalid(client: httpx2.Client, content: bytes, content_type: str) -> None:
    """A repeated parameter, bad encoding, the wrong type, a parameter without a value."""
    reply = client.post("/token", content=content, headers={"Content-Type": content_type})
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_request")


def test_a_provider_can_want_json_bodies() -> None:
    """Then forms are refused."""
    simulator = Simulator(ProviderConfig(client_secret=None, profile=Profile(body=BodyKind.JSON)))
    members = {"grant_type": "client_credentials", "client_id": "sim-client"}
    with simulator.serve() as url:
        assert httpx2.post(f"{url}/token", json=members).status_code == 200
        assert httpx2.post(f"{url}/token", json=["no object"]).status_code == 400
        assert httpx2.post(f"{url}/token", data=members).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/token", 405), ("GET", "/", 404), ("PUT", "/_sim/x", 404)]
)
def test_unknown_paths_and_methods(client: httpx2.Client, method: str, path: str, status: int) -> None:
    """What isn't there is 404, what is there in another way 405."""
    assert client.request(method, path).status_code == status


def test_connections_are_kept_and_numbered(simulator: Simulator, client: httpx2.Client) -> None:
    """Two requests of one client share a connection, a client that wants to close gets another."""
    credentials(client)
    credentials(client, headers={"Connection": "close"})
    credentials(client)
    assert [record.connection for record in simulator.provider.report().requests] == [1, 1, 2]
    assert simulator.provider.report().max_in_flight == 1


@pytest.mark.parametrize(
    ("fault", "lost"),
    [
        (faults.reset(), httpx2.ReadError),
        (faults.reset(processed=True), httpx2.ReadError),
        (faults.close(), httpx2.RemoteProtocolError),
        (faults.close(processed=True), httpx2.RemoteProtocolError),
        (faults.half(), httpx2.RemoteProtocolError),
    ],
)
def test_connections_break_before_and_after_processing(
    simulator: Simulator, client: httpx2.Client, fault: Fault, lost: type[Exception]
) -> None:
    """The client sees the same either way; only the provider knows whether the token is spent."""
    seed = simulator.provider.new_grant()
    simulator.provider.add_fault(fault)
    with pytest.raises(lost):
        refresh(client, seed)
    assert fate_of_last(simulator.provider) is Fate.CUT
    assert simulator.provider.uses(seed) == int(fault.processed)
    assert simulator.provider.report().tokens[0].cut == int(fault.processed)


@pytest.mark.parametrize("fault", [faults.hold(), faults.hold(processed=True), faults.latency(after=600)])
def test_an_answer_that_never_comes(simulator: Simulator, client: httpx2.Client, fault: Fault) -> None:
    """The client's patience ends, and the provider notices that it has gone."""
    seed = simulator.provider.new_grant()
    simulator.provider.add_fault(fault)
    with pytest.raises(httpx2.ReadTimeout):
        refresh(client, seed, timeout=httpx2.Timeout(10, read=0.1))
    assert fate_of_last(simulator.provider) is Fate.CUT
    assert simulator.provider.uses(seed) == int(fault.processed)


def test_a_provider_processes_what_its_client_gave_up(simulator: Simulator, client: httpx2.Client) -> None:
    """Latency before processing: the client has gone and the rotation still happens."""
    seed = simulator.provider.new_grant()
    simulator.provider.add_fault(faults.latency(before=0.3))
    with pytest.raises(httpx2.ReadTimeout):
        refresh(client, seed, timeout=httpx2.Timeout(10, read=0.05))
    assert simulator.provider.wait_until(lambda: simulator.provider.uses(seed) == 1)


def test_latencies_delay_a_good_answer(simulator: Simulator, client: httpx2.Client) -> None:
    """It comes all the same, no earlier than scripted."""
    simulator.provider.add_fault(faults.latency(before=0.05, after=0.05))
    started = time.monotonic()
    assert credentials(client).status_code == 200
    assert time.monotonic() - started >= 0.1
    assert fate_of_last(simulator.provider) is Fate.ANSWERED


def test_a_huge_body_is_streamed(simulator: Simulator, client: httpx2.Client) -> None:
    """Fifty megabytes arrive without a Content-Length, and are still the JSON that they start with."""
    simulator.provider.add_fault(faults.huge())
    reply = credentials(client)
    assert len(reply.content) > 50_000_000
    assert "Content-Length" not in reply.headers
    assert reply.json()["access_token"].startswith("sim-at-")


def test_a_huge_body_may_be_left_half_read(simulator: Simulator) -> None:
    """A client that hangs up in the middle has no answer."""
    simulator.provider.add_fault(faults.huge())
    form = {"grant_type": "client_credentials", "client_id": "sim-client"}
    with httpx2.stream("POST", simulator.token_url, data=form) as reply:
        assert next(reply.iter_bytes(1000))
    assert fate_of_last(simulator.provider) is Fate.CUT


def test_a_trickled_answer_arrives_whole(simulator: Simulator, client: httpx2.Client) -> None:
    """Slow pieces make the same JSON."""
    simulator.provider.add_fault(faults.trickle(bytes_at_once=40, interval=0.01))
    assert credentials(client).json()["token_type"] == "Bearer"
    assert fate_of_last(simulator.provider) is Fate.ANSWERED


def test_a_trickled_answer_may_be_left(simulator: Simulator, client: httpx2.Client) -> None:
    """A client that runs out of patience between two pieces has no answer."""
    simulator.provider.add_fault(faults.trickle(interval=600))
    with pytest.raises(httpx2.ReadTimeout):
        credentials(client, timeout=httpx2.Timeout(10, read=0.1))
    assert fate_of_last(simulator.provider) is Fate.CUT


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        (faults.status(503, retry_after=5), 503, b"{}"),
        (faults.html(), 200, faults.HTML_PAGE.encode()),
        (faults.empty(), 200, b""),
        (faults.redirect("http://127.0.0.1:9/token"), 302, b""),
        (Fault(status=299, body="odd"), 299, b"odd"),
        (Fault(body="", delivery=Delivery.TRICKLE), 200, b""),
    ],
)
def test_answers_go_out_as_scripted(
    simulator: Simulator, client: httpx2.Client, fault: Fault, status: int, body: bytes
) -> None:
    """Status and body are those of the script, and the connection survives."""
    simulator.provider.add_fault(fault)
    reply = credentials(client)
    assert (reply.status_code, reply.content) == (status, body)
    assert fate_of_last(simulator.provider) is Fate.ANSWERED
    assert credentials(client).status_code == 200


@pytest.mark.parametrize(
    "sent", [b"", b"no HTTP at all\r\n\r\n", b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"]
)
def test_strange_clients_do_no_harm(simulator: Simulator, client: httpx2.Client, sent: bytes) -> None:
    """Silence, nonsense and a request that ends early cost their connection only."""
    with socket.create_connection((simulator.host, simulator.port)) as stranger:
        stranger.sendall(sent)
    assert credentials(client).status_code == 200
    assert len(simulator.provider.report().requests) == 1


def test_a_request_that_is_too_large_is_cut_off(simulator: Simulator, client: httpx2.Client) -> None:
    """Nobody sends a megabyte to a token endpoint."""
    with pytest.raises(httpx2.TransportError):
        client.post("/token", content=b"x" * 3_000_000)
    assert credentials(client).status_code == 200


def test_a_stopped_simulator_refuses_and_comes_back_at_its_address() -> None:
    """Port, grants and counts outlive the stop."""
    simulator = Simulator(ProviderConfig(client_secret=None))
    seed = simulator.provider.new_grant()
    with simulator.serve() as first, httpx2.Client(base_url=first) as client:
        token = refresh(client, seed).json()["refresh_token"]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{first}/resource")
    with simulator.serve() as second, httpx2.Client(base_url=second) as client:
        assert second == first
        assert refresh(client, token).status_code == 200


def test_a_fixed_port_is_taken() -> None:
    """Another simulator may take over the address of one that has gone."""
    first = Simulator()
    with first.serve():
        pass
    with Simulator(port=first.port).serve() as url:
        assert urlsplit(url).port == first.port


def test_starting_twice_is_an_error_and_stopping_twice_is_not(simulator: Simulator) -> None:
    """`start` protects the running thread; `stop` may be called in any teardown."""
    with pytest.raises(RuntimeError, match="running already"):
        simulator.start()
    simulator.stop()
    simulator.stop()


def test_a_thread_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a server that will never be."""
    monkeypatch.setattr(server, "THREAD_TIMEOUT", 0.01)
    monkeypatch.setattr(anyio, "run", lambda *_: None)
    simulator = Simulator()
    with pytest.raises(RuntimeError, match="did not start"):
        simulator.start()
    simulator.stop()
    with socket.create_server((simulator.host, simulator.port)):
        pass


def test_stopping_cuts_what_is_in_flight() -> None:
    """A held connection doesn't hold the stop."""
    simulator = Simulator(ProviderConfig(client_secret=None))
    simulator.provider.add_fault(faults.hold(processed=True))
    with simulator.serve() as url:
        parts = urlsplit(url)
        body = b"grant_type=client_credentials&client_id=sim-client"
        head = f"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n".encode()
        with socket.create_connection((parts.hostname or "", parts.port or 0)) as held:
            held.sendall(head + b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" + body)
            assert simulator.provider.wait_until(lambda: simulator.provider.report().in_flight == 1)
            simulator.stop()
            assert held.recv(1) == b""
    assert fate_of_last(simulator.provider) is Fate.CUT


def test_another_process_can_script_grant_kill_and_read(simulator: Simulator, client: httpx2.Client) -> None:
    """Every control endpoint, once; the report names tokens by their fingerprints alone."""
    seed = client.post("/_sim/grants", json={"scope": "mail"}).json()["refresh_token"]
    fault = {"status": 503, "processed": False, "body": "{}", "retry_after": 3, "delivery": "whole"}
    assert client.post("/_sim/faults", json={**fault, "times": 2}).json() == {"faults_armed": 1}
    assert refresh(client, seed).status_code == 503
    assert client.delete("/_sim/faults").json() == {"faults_armed": 0}
    assert client.post("/_sim/config", json={"access_ttl": 5, "rotation": "never"}).status_code == 200
    reply = refresh(client, seed).json()
    assert (reply["expires_in"], reply["scope"], "refresh_token" in reply) == (5, "mail", False)
    assert client.post("/_sim/kill", json={"fingerprint": fingerprint(seed)}).json() == {"killed": 1}
    assert refresh(client, seed).json()["error"] == "invalid_grant"

    report = client.get("/_sim/report")

    assert report.json()["tokens"][0]["uses"] == 2
    assert report.json()["reused"] == [fingerprint(seed)]
    assert [record["outcome"] for record in report.json()["requests"]] == [
        "unprocessed",
        "unrotated",
        "invalid_grant",
    ]
    assert "sim-" not in report.text.replace("sim-client", "")


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/_sim/faults", b'{"statsu": 500}'),
        ("/_sim/faults", b'{"status": "500"}'),
        ("/_sim/faults", b'{"keep": 3}'),
        ("/_sim/faults", b"[]"),
        ("/_sim/config", b'{"acess_ttl": 5}'),
        ("/_sim/config", b'{"access_ttl": 0}'),
        ("/_sim/grants", b"{"),
    ],
)
def test_mistakes_of_a_controller_are_answered_400(client: httpx2.Client, path: str, content: bytes) -> None:
    """A test that misspells a fault is told so."""
    reply = client.post(path, content=content)
    assert reply.status_code == 400
    assert reply.json()["error"]


# As a process of its own.


class Process:
    """`python -m sidecar.testing` with arguments, ready."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "sidecar.testing", *arguments]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.child.stdout is not None
        assert select.select([self.child.stdout], [], [], 30)[0], "the simulator did not get ready"
        self.ready = json.loads(self.child.stdout.readline())

    def __enter__(self) -> dict[str, Any]:
        assert self.ready["pid"] == self.child.pid
        return dict(self.ready)

    def __exit__(self, *exc_info: object) -> None:
        self.child.send_signal(signal.SIGTERM)
        output, _ = self.child.communicate(timeout=30)
        assert (self.child.returncode, output) == (0, "")


def test_the_process_writes_its_files_and_outlives_a_restart(tmp_path: Path) -> None:
    """Seed, client and state are private files; a second run goes on with the same grant and client."""
    seed_file, client_file, state = (
        tmp_path / "seed.json",
        tmp_path / "credentials.json",
        tmp_path / "state.json",
    )
    files = [f"--seed-file={seed_file}", f"--client-file={client_file}", f"--state={state}"]

    with Process("--ttl", "15", "--rotation", "always", *files) as ready:
        installed = json.loads(client_file.read_text())["installed"]
        assert installed["token_uri"] == ready["token_url"]
        assert installed["auth_uri"] == f"{ready['url']}/authorize"
        auth = (installed["client_id"], installed["client_secret"])
        seed = json.loads(seed_file.read_text())
        members = httpx2.post(
            ready["token_url"], data={"grant_type": "refresh_token", **seed}, auth=auth
        ).json()
        assert members["expires_in"] == 15
    assert {stat.S_IMODE(path.stat().st_mode) for path in (seed_file, client_file, state)} == {0o600}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["credentials.json", "seed.json", "state.json"]

    with Process("--port", str(urlsplit(ready["url"]).port), *files) as again:
        assert again["url"] == ready["url"]
        assert json.loads(seed_file.read_text()) == seed
        form = {"grant_type": "refresh_token", "refresh_token": members["refresh_token"]}
        assert httpx2.post(again["token_url"], data=form, auth=auth).status_code == 200


def test_the_process_reads_its_client_secret_from_a_file(tmp_path: Path) -> None:
    """A secret never travels in argv."""
    secret = tmp_path / "secret"
    secret.write_text("sim-cs-mine\n")
    with Process(
        "--client-id", "me", "--client-secret-file", str(secret), "--client-auth", "client_secret_post"
    ) as ready:
        form = {"grant_type": "client_credentials", "client_id": "me", "client_secret": "sim-cs-mine"}
        assert httpx2.post(ready["token_url"], data=form).status_code == 200


def test_the_process_registers_redirect_uris() -> None:
    """The console's callback beside that of `login`, on any port; and no other."""
    places = ["http://127.0.0.1:9641/callback/google", "http://127.0.0.1:4000/", "http://127.0.0.1/other"]
    proof = {"code_challenge": "c" * 43, "code_challenge_method": "S256"}
    with Process("--redirect-uri", "http://127.0.0.1/callback/google") as ready:
        request = {"response_type": "code", "client_id": "sim-client", "state": "s", **proof}
        found = [
            httpx2.get(f"{ready['url']}/authorize", params={**request, "redirect_uri": place})
            for place in places
        ]
    assert [reply.headers.get("location", "").partition("?")[0] for reply in found] == [*places[:2], ""]


def test_the_process_refuses_contradictions() -> None:
    """The reason is printed, without a traceback."""
    command = [sys.executable, "-m", "sidecar.testing", "--grace-until-used"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr == "grace_until_used needs a grace; math.inf sets no limit\n"


def test_the_process_says_what_it_could_not_have(tmp_path: Path) -> None:
    """A taken port and a missing directory are a sentence each, and a taken port costs no file."""
    files = [f"--client-file={tmp_path / 'credentials.json'}"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"127.0.0.1 port {port} can't be had; name another one"):
            main(["--port", str(port), *files])
    missing = tmp_path / "missing"
    command = [sys.executable, "-m", "sidecar.testing", f"--seed-file={missing / 'seed.json'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr.startswith(f"nothing can be kept in {missing}: ")
    assert done.stderr.endswith("; make that directory first\n")
    assert list(tmp_path.iterdir()) == []


def test_the_process_can_have_a_public_client(tmp_path: Path) -> None:
    """Its credentials.json has no secret, and a seed that is there without its grant is replaced."""
    seed_file, client_file = tmp_path / "seed.json", tmp_path / "credentials.json"
    seed_file.write_text('{"refresh_token": "sim-rt-of-another-life"}')
    with Process("--public-client", f"--seed-file={seed_file}", f"--client-file={client_file}") as ready:
        assert "client_secret" not in json.loads(client_file.read_text())["installed"]
        form = {"grant_type": "refresh_token", "client_id": "sim-client", **json.loads(seed_file.read_text())}
        assert httpx2.post(ready["token_url"], data=form).status_code == 200


def test_a_file_that_can_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """And no temporary beside it."""
    path = tmp_path / "state.json"
    write_private(path, {"good": True})
    with pytest.raises(TypeError):
        write_private(path, {"bad": object()})
    assert list(tmp_path.iterdir()) == [path]
    assert json.loads(path.read_text()) == {"good": True}
