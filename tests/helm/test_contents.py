from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from gmail_sdk import GmailClient

from tests.helm import documents
from tests.helm.cases import CASES
from tests.helm.release import CHARTS, Helm, Manifest, one

ALERTS = documents.CHART / "files" / "alerts.yaml"
ROOT = os.geteuid() == 0


def alerts() -> list[dict[str, Any]]:
    """Return every alert."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def test_the_monitoring_objects_carry_what_is_in_the_files(helm: Helm, app: Path) -> None:
    """Alerts and dashboard arrive as they are in the chart, templates of Prometheus' own untouched."""
    manifests = helm.template(app, CASES["monitored"])

    rules = one(manifests, "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert [rule["labels"].pop("team") for rule in rules] == ["mail"] * len(alerts())
    assert rules == alerts()
    dashboard = one(manifests, "ConfigMap", name="basketball-token-sidecar-dashboard")
    assert json.loads(dashboard["data"]["token-sidecar.json"]) == json.loads(documents.DASHBOARD.read_text())
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    monitor = one(manifests, "PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/instance": "basketball"}
    [port] = one(manifests, "Deployment")["spec"]["template"]["spec"]["initContainers"][0]["ports"]
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == port["name"]


@pytest.fixture
def reader(helm: Helm, app: Path) -> Manifest:
    """Give the container with which `helm test` reads the tokens."""
    [container] = one(helm.template(app), "Pod")["spec"]["containers"]
    return dict(container)


def read(reader: Manifest, *paths: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run what it runs, on other files."""
    assert reader["command"] == ["python", "-c"]
    script = reader["args"][0]
    return subprocess.run(
        [sys.executable, "-c", f"{before}\n{script}", *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_releases_test_reads_every_file(helm: Helm, app: Path) -> None:
    """It gets each file output, where the application finds it, from the tokens' own lists and from the default."""
    outputs = [{"file": "/run/tokens/a"}, {"file": "/run/tokens/b"}]
    config = {"defaults": {"outputs": outputs}, "tokens": {"calendar": {"provider": "google"}}}
    values = {"token-sidecar": {"config": config, "appVolumeMount": {"mountPath": "/tokens"}}}

    [container] = one(helm.template(app, values), "Pod")["spec"]["containers"]

    assert container["args"][1:] == ["/tokens/a", "/tokens/b", "/tokens/gmail-westsidebasketball.json"]


def test_the_releases_test_leaves_out_what_it_cannot_see(helm: Helm, app: Path) -> None:
    """Files with variables, and those in the sidecar's other volumes, would fail it for no fault of anybody's."""
    files = ["/run/tokens/a", "/run/tokens/${POD_NAME}.json", "/more/b", "/run/tokens/run/tokens/c"]
    values = {
        "config": {"tokens": {"gmail": {"outputs": [{"file": file} for file in files]}}},
        "extraVolumes": {"more": {"emptyDir": {}}},
        "extraVolumeMounts": {"more": {"mountPath": "/more"}},
        "appVolumeMount": {"mountPath": "/tokens/"},
    }

    [container] = one(helm.template(app, {"token-sidecar": values}), "Pod")["spec"]["containers"]

    assert container["args"][1:] == ["/tokens/a", "/tokens/run/tokens/c"]


def test_the_releases_test_is_like_the_application(reader: Manifest, helm: Helm, app: Path) -> None:
    """It has the application's user and group, its view of the tokens, and a sidecar like the application's."""
    found = one(helm.template(app), "Pod")["spec"]
    application = one(helm.template(app), "Deployment")["spec"]["template"]["spec"]

    assert (
        reader["securityContext"]["runAsUser"] == application["containers"][0]["securityContext"]["runAsUser"]
    )
    assert found["securityContext"] == application["securityContext"]
    assert found["restartPolicy"] == "Never"
    assert one(helm.template(app), "Pod")["metadata"]["annotations"] == {
        "helm.sh/hook": "test",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
    }
    assert reader["volumeMounts"] == application["containers"][0]["volumeMounts"]
    for part in ("initContainers", "volumes", "serviceAccountName", "automountServiceAccountToken"):
        assert found[part] == application[part]


def test_the_releases_test_passes_for_readable_tokens(reader: Manifest, tmp_path: Path) -> None:
    """It names each file and its size, and shows nothing of what is in it."""
    file = tmp_path / "token"
    file.write_text("sim-at-0123456789abcdef")

    done = read(reader, file)

    assert (done.returncode, done.stderr) == (0, "")
    assert f"{file}: 23 bytes" in done.stdout
    assert "sim-at" not in done.stdout


def test_the_releases_test_fails_for_anything_else(reader: Manifest, tmp_path: Path) -> None:
    """A file that is missing or empty fails it, and is named."""
    empty = tmp_path / "empty"
    empty.touch()

    done = read(reader, empty, tmp_path / "missing")

    assert done.returncode == 1
    assert f"{empty}: is empty" in done.stderr
    assert f"{tmp_path / 'missing'}: No such file" in done.stderr


@pytest.mark.skipif(not ROOT, reason="only root can be somebody else")
def test_the_releases_test_fails_for_what_may_not_be_read(reader: Manifest, tmp_path: Path) -> None:
    """A file that the application's user may not read fails it, and says who could not."""
    file = tmp_path / "token"
    file.write_text("sim-at-0123456789abcdef")
    file.chmod(0o600)

    done = read(
        reader, file, before="import os, pathlib; os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    )

    assert done.returncode == 1
    assert "Permission denied, as user 65534" in done.stderr


def test_the_example_reads_the_token_through_the_sdk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example's application is the SDK's user that it says it is, and never refreshes."""
    token = {"access_token": "sim-at-0123456789abcdef", "expires_at": time.time() + 3600, "refresh_token": ""}
    (tmp_path / "gmail-westsidebasketball.json").write_text(json.dumps(token))
    used: list[str | None] = []

    def profile(client: GmailClient) -> dict[str, int]:
        used.append(client.access_token)
        return {"messagesTotal": 7}

    monkeypatch.setattr(GmailClient, "get_profile", profile)
    monkeypatch.setenv("GMAIL_ACCOUNT", "westsidebasketball")
    monkeypatch.setenv("GMAIL_SECRETS_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["reader.py", "--once"])
    spec = importlib.util.spec_from_file_location("reader", CHARTS / "example-app" / "app" / "reader.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    module.main()

    assert used == [token["access_token"]]
    assert capsys.readouterr().out == "westsidebasketball: 7 messages\n"


def test_the_example_runs_the_sdk_that_is_tested() -> None:
    """Its image has the version that the tests have."""
    pinned = (CHARTS / "example-app" / "app" / "Dockerfile").read_text()
    project = (CHARTS.parent / "pyproject.toml").read_text()

    [version] = re.findall(r"gmail-sdk-ldraney==[\d.]+", pinned)
    assert f'"{version}"' in project


def test_the_charts_have_the_projects_version() -> None:
    """Chart and application are released together."""
    [version] = re.findall(
        r'^version = "(.*)"$', (CHARTS.parent / "pyproject.toml").read_text(), re.MULTILINE
    )
    about = {
        name: yaml.safe_load((CHARTS / name / "Chart.yaml").read_text())
        for name in ("token-sidecar", "example-app")
    }

    assert about["token-sidecar"]["appVersion"] == version
    assert f"token-sidecar:{version}" in about["token-sidecar"]["annotations"]["artifacthub.io/images"]
    assert about["example-app"]["dependencies"][0]["version"] == about["token-sidecar"]["version"]
