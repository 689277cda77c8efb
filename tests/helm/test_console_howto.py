"""The manifests of the console's how-to are what a cluster accepts, and fit together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import config
from tests.helm import pss, schemas

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "console.md"


def blocks() -> list[str]:
    """Return the page's YAML, in order."""
    return re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    """Return the manifests by their kind."""
    found = [yaml.safe_load(block) for block in blocks() if "kind: " in block]
    return {one["kind"]: one for one in found}


def test_every_release_accepts_them(manifests: dict[str, Any]) -> None:
    """Kubernetes' own schemas have nothing to say against them, and "restricted" admits the pod."""
    assert set(manifests) == {"Deployment", "Service", "NetworkPolicy"}
    mistakes = [
        said
        for release in schemas.NATIVE
        for one in manifests.values()
        for said in schemas.mistakes(one, release)
    ]
    assert mistakes == []
    pod = manifests["Deployment"]["spec"]["template"]
    assert pss.violations({"spec": pod["spec"], "metadata": pod["metadata"], "kind": "Pod"}) == []


def test_they_fit_together(manifests: dict[str, Any], tmp_path: Path) -> None:
    """Labels, ports and paths of one are those that the others name, and the configuration is right."""
    text = next(block for block in blocks() if "\nconsole:" in block)
    file = tmp_path / "config.yaml"
    # Its store's URL is in a file that this machine doesn't have.
    file.write_text(
        text.replace("{url_file: /etc/database/url}", "postgresql://db/tokens?sslmode=verify-full")
    )
    settings = config.load(file, disk=False).settings
    template = manifests["Deployment"]["spec"]["template"]
    console, proxy = template["spec"]["containers"]
    mounts = [mount["mountPath"] for mount in console["volumeMounts"]]

    assert manifests["Service"]["spec"]["selector"] == template["metadata"]["labels"]
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == template["metadata"]["labels"]
    assert f"--upstream=http://{settings.console.host}:{settings.console.port}" in proxy["args"]
    assert f"--redirect-url={settings.console.url}/oauth2/callback" in proxy["args"]
    assert settings.console.proxy is not None
    assert settings.console.proxy.addresses == ("127.0.0.1",)
    [port] = proxy["ports"]
    assert manifests["NetworkPolicy"]["spec"]["ingress"][0]["ports"] == [{"port": port["containerPort"]}]
    assert f"0.0.0.0:{port['containerPort']}" in proxy["args"][0]
    assert {str(settings.state_dir), "/etc/database", "/etc/oauth", "/etc/token-sidecar"} == set(mounts)
    # A consent that came in last is given as long as it may take.
    assert template["spec"]["terminationGracePeriodSeconds"] > 120 + 20
