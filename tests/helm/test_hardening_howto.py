"""What the hardening guide shows can be applied as it stands, and closes what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm import pss, schemas
from tests.helm.release import CHARTS, Helm, merged, one, pod, sidecar

ROOT = CHARTS.parent
PAGE = ROOT / "docs" / "howto" / "hardening.md"
ANALYZE = shutil.which("systemd-analyze")


def blocks(language: str) -> list[str]:
    """Return the page's blocks of a language, in order."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^\1```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return [textwrap.dedent(text) for _, text in found]


DOCUMENTS = [yaml.safe_load(block) for block in blocks("yaml")]
VALUES: list[dict[str, Any]] = [each for each in DOCUMENTS if "token-sidecar" in each]
MANIFESTS: dict[str, Any] = {each["kind"]: each for each in DOCUMENTS if "kind" in each}


def test_its_manifests_are_what_a_cluster_accepts() -> None:
    """Every release with native sidecars knows them; nobody may come in but the monitoring, at the daemon's port."""
    assert set(MANIFESTS) == {"Namespace", "NetworkPolicy"}
    said = [schemas.mistakes(each, release) for each in MANIFESTS.values() for release in schemas.NATIVE]
    assert not any(said)
    [way_in] = MANIFESTS["NetworkPolicy"]["spec"]["ingress"]
    assert [port["port"] for port in way_in["ports"]] == [9640]
    assert MANIFESTS["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.parametrize("shown", VALUES, ids=lambda shown: ",".join(shown["token-sidecar"]))
def test_its_values_make_a_pod(helm: Helm, app: Path, shown: dict[str, Any]) -> None:
    """Over the example application they render to what every release accepts and "restricted" admits."""
    manifests = helm.template(app, shown)

    assert pss.violations(pod(manifests)) == []
    assert not [said for each in manifests for said in schemas.mistakes(each, "1.36")]


def test_its_values_close_what_it_says(helm: Helm, app: Path) -> None:
    """A pinned image, Secrets for a group alone, no account's token, what the chart closes by itself, and AppArmor."""
    hardened = helm.template(app, VALUES[0])
    ours, spec = sidecar(pod(hardened)), pod(hardened)["spec"]

    assert re.search(r"@sha256:[0-9a-f]{64}$", ours["image"])
    modes = [volume["secret"]["defaultMode"] for volume in spec["volumes"] if "secret" in volume]
    assert modes == [0o440] * 3
    assert not [volume for volume in spec["volumes"] if "projected" in volume]
    assert ours["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        "appArmorProfile": {"type": "RuntimeDefault"},
    }
    config = yaml.safe_load(one(hardened, "ConfigMap")["data"]["config.yaml"])
    assert config["store"]["require_encryption"] is True


def test_nothing_has_to_come_in(helm: Helm, app: Path) -> None:
    """With probes from the inside the server is on the loopback, and kubelet asks by a program."""
    [server] = re.findall(r"`server: ({[^`]+})` in `config`", PAGE.read_text("utf-8"))
    loopback = {"token-sidecar": {"config": {"server": yaml.safe_load(server)}}}
    closed = helm.template(app, merged(merged(VALUES[0], VALUES[1]), loopback))
    ours = sidecar(pod(closed))

    config = yaml.safe_load(one(closed, "ConfigMap")["data"]["config.yaml"])
    assert config["server"]["host"] == "127.0.0.1"
    assert {
        tuple(ours[f"{kind}Probe"]["exec"]["command"][:2]) for kind in ("startup", "liveness", "readiness")
    } == {("token-sidecar", "healthcheck")}


@pytest.mark.skipif(ANALYZE is None and not os.environ.get("CI"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("lines", blocks("ini"))
def test_systemd_takes_its_drop_ins(lines: str, tmp_path: Path) -> None:
    """Beside the unit that comes with the source; no key in them is unknown, and no value is none."""
    assert ANALYZE is not None
    unit = (ROOT / "host" / "token-sidecar.service").read_text(encoding="utf-8")
    unit = unit.replace("/opt/token-sidecar/bin/token-sidecar", "/bin/true")
    unit = unit.replace("User=token-sidecar", "User=root").replace("Group=tokens", "Group=root")
    file = tmp_path / "token-sidecar.service"
    # As systemd reads a drop-in: after the unit.
    file.write_text(f"{unit}\n{lines}", encoding="utf-8")

    done = subprocess.run(
        [ANALYZE, "verify", "--man=no", str(file)], capture_output=True, text=True, timeout=30, check=False
    )

    assert not [line for line in done.stderr.splitlines() if "token-sidecar" in line]
