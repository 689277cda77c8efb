"""Scenario S7: what the chart adds to an application's pod does what the design card says, as kubelet sees it."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gmail_sdk.client
import pytest
import yaml

from sidecar.errors import SidecarError
from sidecar.testing import Rotation
from tests.e2e.conftest import PROJECT, Daemon
from tests.helm.conftest import app, chart, charts, helm
from tests.helm.release import one, pod, sidecar
from tests.scenarios import google_api

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.e2e.conftest import MakeDaemon, MakeSimulator
    from tests.helm.release import Helm, Manifest
    from tests.postgres import Server

__all__ = ["app", "chart", "charts", "helm"]

READER = PROJECT / "helm" / "example-app" / "app" / "reader.py"
MEMORY = Path("/dev/shm")  # noqa: S108 - the tokens' volume is memory, as a pod's is
CARD: dict[str, Any] = {
    "config": {
        "store": {"url_file": "/etc/database/url"},
        "tokens": {"gmail": {"dead_grace": "3s"}},
    },
    "secretMounts": {"database": "/etc/database"},
}
"""The card's values beside the example's own: a Postgres backend; and little patience with a dead grant."""


class Deployed:
    """One pod of the release: its daemon, with the rendered configuration, and the rendered probes."""

    def __init__(self, daemon: Daemon, manifests: list[Manifest]) -> None:
        self.daemon = daemon
        self.container = sidecar(pod(manifests))
        self.application = pod(manifests)["spec"]["containers"][0]

    def probe(self, which: str) -> int:
        """Ask as kubelet does; returns the status."""
        return self.daemon.get(self.container[f"{which}Probe"]["httpGet"]["path"]).status

    def probes(self) -> list[int]:
        """Ask all three."""
        return [self.probe(which) for which in ("startup", "readiness", "liveness")]

    def replace(self) -> None:
        """Have another pod take its place: nothing is left but the database."""
        assert self.daemon.stop() == 0
        for volume in (self.daemon.state_dir, self.daemon.out):
            shutil.rmtree(volume)
        self.daemon.out.mkdir()
        self.daemon.start()


@pytest.fixture
def simulator(make_simulator: MakeSimulator) -> Simulator:
    """Give a provider that replaces refresh tokens at each use."""
    return make_simulator(rotation=Rotation.ALWAYS, access_ttl=3600, kills_old_access_token=False)


@pytest.fixture
def deployed(
    helm: Helm, app: Path, make_daemon: MakeDaemon, simulator: Simulator, server: Server, database: str
) -> Iterator[Deployed]:
    """Install the example's chart, as far as that goes without a cluster."""
    manifests = helm.template(app, {"token-sidecar": CARD})
    daemon = make_daemon()
    daemon.add(simulator)
    config = yaml.safe_load(one(manifests, "ConfigMap")["data"]["config.yaml"])
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="sidecar-") as memory:
        daemon.out = Path(memory) / "tokens"
        daemon.out.mkdir()
        token = config["tokens"]["gmail"]
        [output] = token["outputs"]
        output["file"] = output["file"].replace("/run/tokens", str(daemon.out))
        del output["group"]
        output["require_tmpfs"] = True
        ours = daemon.config["tokens"]["gmail"]
        token |= {"client": ours["client"], "seed": ours["seed"]}
        (daemon.folder / "url").write_text(server.url(database), encoding="utf-8")
        config["store"]["url_file"] = str(daemon.folder / "url")
        here = {"state_dir": str(daemon.state_dir), "server": {"port": 0}, "log": daemon.config["log"]}
        daemon.config = config | here
        daemon.config["providers"] = {
            "google": {"token_url": simulator.token_url, "rotation": "always", "in_doubt": "no_replay"}
        }
        yield Deployed(daemon, manifests)
        daemon.close()


def test_the_card(deployed: Deployed, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is fresh in memory and read unchanged; a new pod needs nobody; a dead grant fails liveness alone."""
    daemon, requests = deployed.daemon, simulator.provider.report
    specification = importlib.util.spec_from_file_location("reader", READER)
    assert specification is not None
    assert specification.loader is not None
    reader = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(reader)
    [account] = [one["value"] for one in deployed.application["env"] if one["name"] == "GMAIL_ACCOUNT"]
    monkeypatch.setenv("GMAIL_SECRETS_DIR", str(daemon.out))

    with google_api.serving(simulator.provider) as api:
        monkeypatch.setattr(gmail_sdk.client, "GMAIL_BASE", f"{api.url}/gmail/v1")

        daemon.start()
        assert deployed.probes() == [200, 200, 200]
        assert reader.look(account) == f"{account}: 0 messages"

        daemon.control.refresh("gmail")
        daemon.wait_until(lambda: daemon.status()["generation"] == 2, "it is refreshed before its time")
        assert reader.look(account) == f"{account}: 0 messages"
        assert len(set(api.tokens)) == 2

        deployed.replace()
        assert deployed.probes() == [200, 200, 200]
        assert reader.look(account) == f"{account}: 0 messages"
        assert api.tokens[-1] == api.tokens[-2]
        assert len(requests().requests) == 2
        [file] = daemon.out.iterdir()
        held = daemon.metric("output_token_expiry_timestamp_seconds", output=f"file:{file}")
        assert held == daemon.metric("access_token_expiry_timestamp_seconds") == daemon.status()["expires_at"]

        simulator.provider.kill()
        with pytest.raises(SidecarError):
            daemon.control.refresh("gmail")
        daemon.wait_until(lambda: deployed.probe("liveness") == 503, "liveness fails, after its grace")
        assert daemon.metric("grant_state", state="dead") == 1
        assert deployed.probes() == [200, 200, 503]
        assert "token-sidecar login gmail" in daemon.get("/livez").text
    assert api.refused == []
