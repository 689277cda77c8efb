from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.errors import UsageError
from sidecar.events import ConfigLoaded
from sidecar.server.client import NotRunning, address_of, probe
from sidecar.server.http import probes_app
from sidecar.server.marker import StartMarker
from sidecar.server.serve import bind_tcp, names_of, publish_address, url_of
from sidecar.tokens import GrantState
from tests.server.conftest import NOW, Rig, a_view, an_output, ask, serving


@pytest.fixture
def anyio_backend() -> str:
    """Uvicorn runs on asyncio alone."""
    return "asyncio"


async def test_the_probes_of_a_token_that_is_well_answer_ok(tmp_path: Path) -> None:
    """All is well: one word."""
    rig = Rig(tmp_path)
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        answers = [await ask(url, path) for path in ("/livez", "/readyz", "/readyz/gmail", "/startupz")]

    assert [(answer.status, answer.text) for answer in answers] == [(200, "ok\n")] * 4
    assert {answer.headers["content-type"] for answer in answers} == {"text/plain; charset=utf-8"}
    assert not {"server", "date"} & set(answers[0].headers)


async def test_an_expired_token_is_not_ready_and_alive(tmp_path: Path) -> None:
    """Reasons come one a line, and only where they belong."""
    rig = Rig(tmp_path)
    rig.show(a_view(grant_state=GrantState.RETRYING, reason="503 since 40 min"))
    rig.show(a_view(token="second"))
    rig.clock.at = NOW + 1800
    rig.heartbeats.stamp("server")
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        alive, ready, one = [await ask(url, path) for path in ("/livez", "/readyz", "/readyz/second")]

    assert alive.status == 200
    assert ready.status == one.status == 503
    assert ready.text.splitlines() == [
        "gmail: /run/tokens/gmail.json expired 0 s ago; the grant is retrying (503 since 40 min)",
        "second: /run/tokens/gmail.json expired 0 s ago",
    ]
    assert one.text.splitlines() == ready.text.splitlines()[1:]


async def test_a_hung_worker_fails_liveness_over_http(tmp_path: Path) -> None:
    """A worker that stopped stamping is found out by the probe."""
    rig = Rig(tmp_path)
    rig.heartbeats.stamp("scheduler")
    rig.clock.at += 121
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        answer = await ask(url, "/livez")

    assert answer.status == 503
    assert answer.text.startswith("worker scheduler: no heartbeat for 121 s")


async def test_an_unknown_token_is_404_and_lists_the_known(tmp_path: Path) -> None:
    """A typing mistake in a probe's path is told from trouble."""
    rig = Rig(tmp_path)
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        answer = await ask(url, "/readyz/gmial")

    assert (answer.status, answer.text) == (404, "no token is called 'gmial'; known: gmail\n")


async def test_head_is_get_without_a_body_and_nothing_can_be_written(tmp_path: Path) -> None:
    """Monitors ask with HEAD; state isn't changed over TCP."""
    rig = Rig(tmp_path)
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        head = await ask(url, "/readyz", "HEAD")
        writes = [await ask(url, path, "POST") for path in ("/livez", "/status", "/metrics", "/readyz/gmail")]

    assert (head.status, head.text) == (200, "")
    assert {answer.status for answer in writes} == {405}


async def test_a_read_back_that_hangs_falls_back_to_what_was_seen_last(tmp_path: Path) -> None:
    """A network volume that doesn't answer must not fail the probes of every other token."""
    rig = Rig(tmp_path)
    rig.hang = True
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        ready, live = await ask(url, "/readyz"), await ask(url, "/livez")

    assert ready.status == live.status == 200


async def test_the_marker_lets_a_restarted_container_start(tmp_path: Path) -> None:
    """Once started, a pod isn't held up by its startup probe again, and another pod isn't let through."""
    rig = Rig(tmp_path)
    rig.show(a_view(outputs=(an_output(fingerprint=None),)))
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        assert (await ask(url, "/startupz")).status == 503
        assert not (tmp_path / "started").exists()
        rig.show(a_view())
        assert (await ask(url, "/startupz")).text == "ok\n"

    again = Rig(tmp_path)
    again.show(a_view(outputs=(an_output(fingerprint=None),)))
    async with serving(probes_app(again.site), again.heartbeats) as url:
        answer = await ask(url, "/startupz")

    assert answer.status == 200
    assert answer.text.startswith("ok: this pod has started before; now:\ngmail: ")
    assert not StartMarker(tmp_path, pod="pod-2").present


async def test_a_marker_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    """It costs a later restart some seconds, and is no reason to fail now."""
    warnings: list[str] = []
    marker = StartMarker(tmp_path / "missing", pod="pod-1", warn=warnings.append)
    marker.set()
    marker.set()

    assert len(warnings) == 1
    assert "No such file" in warnings[0]


async def test_the_metrics_page_is_served_in_both_formats(tmp_path: Path) -> None:
    """What is served is what the metrics' own tests look into."""
    rig = Rig(tmp_path)
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        plain = await ask(url, "/metrics")
        open_metrics = await ask(url, "/metrics", accept="application/openmetrics-text; version=1.0.0")

    names = {family.name for family in text_string_to_metric_families(plain.text)}
    assert "token_sidecar_access_state" in names
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert open_metrics.text.endswith("# EOF\n")


async def test_status_tells_everything_that_may_be_told(tmp_path: Path) -> None:
    """The document holds every field of a view, and JSON's own types alone."""
    rig = Rig(tmp_path)
    rig.heartbeats.stamp("scheduler")
    rig.config.notice(ConfigLoaded(accepted=False, problems=("line 3: no",)))
    rig.show(a_view(token="forever", expires_at=None, never_expires=True))
    rig.clock.at += 10
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        document = json.loads((await ask(url, "/status")).text)

    token = document["tokens"]["gmail"]
    assert set(msgspec.to_builtins(a_view())) <= set(token)
    assert (document["version"], document["instance"], document["uptime"]) == ("1.2.3", "i1", 10.0)
    assert document["config"]["problems"] == ["line 3: no"]
    assert document["heartbeats"]["scheduler"] == {"stamped_at": NOW, "age": 10.0, "stale": False}
    assert (token["access_state"], token["seconds_left"]) == ("fresh", 1790.0)
    assert token["outputs"][0]["seconds_left"] == 1790.0
    assert document["tokens"]["forever"]["seconds_left"] is None


async def test_healthcheck_finds_the_port_and_tells_the_reasons(tmp_path: Path) -> None:
    """The command needs the state_dir alone, whatever port was free."""
    rig = Rig(tmp_path)
    sock = bind_tcp("127.0.0.1", 0)
    publish_address(tmp_path, sock)
    url = address_of(tmp_path)
    assert url == url_of(sock)
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+", url)
    sock.close()

    async with serving(probes_app(rig.site), rig.heartbeats) as served:
        rig.clock.at = NOW + 1800
        rig.heartbeats.stamp("server")
        well = await anyio.to_thread.run_sync(probe, served, "live")
        unwell = await anyio.to_thread.run_sync(probe, served, "ready")

    assert well == (True, "ok")
    assert not unwell[0]
    assert unwell[1].startswith("gmail: ")
    assert probe(served, "live") == (False, f"{served} does not answer: Connection refused")


def test_a_probe_that_does_not_exist_and_a_daemon_that_does_not_run(tmp_path: Path) -> None:
    """Both mistakes are told in a sentence."""
    with pytest.raises(UsageError, match="one of live, ready, startup"):
        probe("http://127.0.0.1:1", "lively")
    with pytest.raises(NotRunning, match="no daemon runs on"):
        address_of(tmp_path)


async def test_tokens_are_not_to_be_had_over_tcp(tmp_path: Path) -> None:
    """Whatever reads a token or changes state is behind the control socket's permissions."""
    rig = Rig(tmp_path)
    async with serving(probes_app(rig.site), rig.heartbeats) as url:
        reads = [await ask(url, path) for path in ("/tokens/gmail", "/reload", "/")]
        writes = [await ask(url, f"/tokens/gmail/{verb}", "POST") for verb in ("refresh", "seed")]

    assert {answer.status for answer in reads + writes} == {404}


@pytest.mark.parametrize("name", ["rebound.example", "rebound.example:9640", "127.0.0.1.rebound.example", ""])
async def test_a_page_elsewhere_reads_nothing_through_a_name_of_its_own(tmp_path: Path, name: str) -> None:
    """On the loopback a request has to call us by the loopback's names, since its own name may point here."""
    rig = Rig(tmp_path)
    with bind_tcp("127.0.0.1", 0) as sock:
        app = probes_app(replace(rig.site, names=names_of(sock)))
    async with serving(app, rig.heartbeats) as url:
        refused = await ask(url, "/status", Host=name)
        welcome = [
            await ask(url, "/status", Host=host) for host in ("localhost", "127.0.0.1:9640", "[::1]:9640")
        ]

    assert refused.status == 400
    assert "gmail" not in refused.text
    assert [answer.status for answer in welcome] == [200] * 3


async def test_on_the_network_any_name_will_do(tmp_path: Path) -> None:
    """Kubelet and Prometheus call a pod by its address, and a Service by its name."""
    rig = Rig(tmp_path)
    with bind_tcp("::", 0) as sock:
        app = probes_app(replace(rig.site, names=names_of(sock)))
    async with serving(app, rig.heartbeats) as url:
        answer = await ask(url, "/livez", Host="tokens.mail.svc:9640")

    assert answer.status == 200
