from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from sidecar import cli
from tests.cli.conftest import Place

PATCH = ["--workload", "deployment/app", "--container", "app"]


@pytest.fixture
def render(place: Place) -> list[str]:
    """Give the beginning of a call, for a configuration as a pod has it."""
    place.document = {
        "namespace": "mail",
        "tokens": {
            "gmail": {
                "provider": "google",
                "client": {"file": "/etc/oauth/credentials.json"},
                "seed": "/etc/oauth/${SEED:-gmail.json}",
                "outputs": [{"file": "/run/tokens/gmail.json", "mode": "0640"}],
            }
        },
    }
    place.write()
    return ["-c", str(place.config)]


def test_a_directory_holds_the_files(
    render: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file is told, begins with where it comes from, and may be written anew; nobody else's is replaced."""
    folder = tmp_path / "made" / "token-sidecar"
    for _ in range(2):
        assert cli.main(["render", "kustomize", *render, *PATCH, "-o", str(folder)]) == 0
    names = {"kustomization.yaml", "patch.yaml", "token-sidecar.yaml"}
    told = capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == names
    assert all(f"{folder / name} is written" in told for name in names)
    written = [path.read_text(encoding="utf-8") for path in folder.iterdir()]
    assert all(text.startswith("# Written by `token-sidecar render") for text in written)

    (folder / "kustomization.yaml").write_text("resources: [mine.yaml]\n", encoding="utf-8")
    assert cli.main(["render", "kustomize", *render, *PATCH, "-o", str(folder)]) == 2
    assert "was not written by this command" in capsys.readouterr().err
    assert (folder / "kustomization.yaml").read_text(encoding="utf-8") == "resources: [mine.yaml]\n"


def test_the_configuration_stays_as_it_is_written(
    render: list[str], place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Variables, quoted modes and times reach the ConfigMap unchanged; what pods need is added below."""
    text = place.config.read_text(encoding="utf-8") + 'log: {level: "debug"}\nserver: {port: 9999}\n'
    place.config.write_text(f"# Mine.\n{text}", encoding="utf-8")
    assert cli.main(["render", "manifests", *render, "--objects"]) == 0
    [config_map] = yaml.safe_load_all(capsys.readouterr().out)
    found = yaml.safe_load(config_map["data"]["config.yaml"])

    assert found == {
        **yaml.safe_load(text),
        "server": {"host": "::", "port": 9999},
        "state_dir": "/run/token-sidecar",
    }
    assert "${SEED:-gmail.json}" in config_map["data"]["config.yaml"]


@pytest.mark.parametrize(
    ("change", "call", "said"),
    [
        ({"tokens": {}}, ["manifests"], "config.yaml:"),
        ({"server": {"host": "127.0.0.1"}}, ["manifests"], "kubelet can't reach 127.0.0.1"),
        ({"server": {"port": 0}}, ["manifests"], "0 is no port that probes could ask"),
        ({"store": "kubernetes://mail/state"}, ["manifests"], "--service-account"),
        ({}, ["manifests", "--directory", "/run/token"], "no volume is mounted where output /run/tokens/"),
        ({}, ["kustomize", "--workload", "deployment/app"], "--container"),
        ({}, ["kustomize", "--workload", "pod/app"], "'pod/app' is no KIND/NAME"),
        ({}, ["manifests", "--mount", "oauth"], "'oauth' is no NAME:/PATH"),
        ({}, ["values", "--style", "bjw-s", "--image", "reg.example:5000/ts"], "want a tag or a digest"),
        ({}, ["manifests", "--mount", "a:/b", "--mount", "a:/c"], "Secret a is mounted at /b already"),
        ({}, ["manifests", "--name", "n" * 64], "at most 63"),
        ({}, ["manifests", "--name", "Mailer"], "small letters"),
        ({}, ["injector", "--mount", "my.oauth:/etc/oauth"], "names a volume after Secret 'my.oauth'"),
        ({}, ["injector", "--mount", "-oauth:/etc/oauth"], "names a volume after Secret '-oauth'"),
        ({}, ["injector", "--mount", f"{'s' * 41}:/etc/oauth"], "at most 40"),
        ({}, ["injector", "--mount", "oauth:/etc/my oauth"], "a path without space"),
        ({}, ["injector", "--mount", "oauth:/etc/a,b"], "a path without space"),
        ({}, ["injector", "--mount", "oauth:/etc/a:b"], "a path without space"),
        ({}, ["injector", "--classic"], "--classic: is the same for all"),
        ({"server": {"port": 1234}}, ["injector"], "server.port: is the same for all"),
        ({"state_dir": "/run/other"}, ["injector"], "state_dir: is the same for all"),
    ],
)
def test_what_cannot_work(
    render: list[str],
    place: Place,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
    call: list[str],
    said: str,
) -> None:
    """Whatever would only fail in the cluster is refused with the way out, and nothing is written."""
    place.document |= change
    place.write()
    assert cli.main(["render", call[0], *render, *call[1:]]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_two_applications_in_a_namespace(render: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each workload's objects have its name, however long it is, so that none takes another's place."""
    found = []
    for workload in ("mailer", "w" * 60, "w" * 61):
        call = ["render", "manifests", *render, "--workload", f"deployment/{workload}", "--container", "app"]
        assert cli.main(call) == 0
        config_map, part = yaml.safe_load_all(capsys.readouterr().out)
        [volume] = [one for one in part["spec"]["template"]["spec"]["volumes"] if "configMap" in one]
        assert volume["configMap"] == {"name": config_map["metadata"]["name"]}
        found.append(config_map["metadata"]["name"])

    assert found[0] == "mailer-token-sidecar"
    assert [len(name) for name in found[1:]] == [63, 63]
    assert len(set(found)) == 3

    assert cli.main(["render", "kustomize", *render, *PATCH]) == 0
    assert "--objects --name app-token-sidecar" in capsys.readouterr().out.replace("\n#", "")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("mailer", "mailer-mail"),
        ("m" * 63, f"{'m' * 54}-{hashlib.sha256(b'm' * 63 + b'-mail').hexdigest()[:8]}"),
        (
            f"{'m' * 52}--{'m' * 9}",
            f"{'m' * 52}-{hashlib.sha256(b'm' * 52 + b'--' + b'm' * 9 + b'-mail').hexdigest()[:8]}",
        ),
    ],
)
def test_a_role_in_another_namespace(
    render: list[str], place: Place, capsys: pytest.CaptureFixture[str], name: str, role: str
) -> None:
    """It has the application's namespace in its name, since another namespace may have one of the same name."""
    place.document["store"] = "kubernetes://state/mailer"
    place.document["tokens"]["gmail"]["outputs"].append({"kubernetes_secret": {"name": "here", "key": "a"}})
    place.write()
    call = [*render, "--objects", "-n", "mail", "--name", name, "--service-account", "mailer"]
    assert cli.main(["render", "manifests", *call]) == 0
    found = [*yaml.safe_load_all(capsys.readouterr().out)]

    for kind in ("Role", "RoleBinding"):
        names = {
            one["metadata"]["namespace"]: one["metadata"]["name"] for one in found if one["kind"] == kind
        }
        assert names == {"mail": name, "state": role}
    assert {one["roleRef"]["name"] for one in found if one["kind"] == "RoleBinding"} == {name, role}


@pytest.mark.parametrize(
    ("groups", "security"),
    [
        ([], None),
        ([2000, "2000"], {"fsGroup": 2000}),
        ([3000, 2000], {"fsGroup": 2000, "supplementalGroups": [3000]}),
    ],
)
def test_the_example_may_read(
    render: list[str],
    place: Place,
    capsys: pytest.CaptureFixture[str],
    groups: list[object],
    security: dict[str, object] | None,
) -> None:
    """Its pod is in the groups that the outputs have."""
    outputs = place.document["tokens"]["gmail"]["outputs"]
    outputs += [{"file": f"/run/tokens/{at}", "group": group} for at, group in enumerate(groups)]
    place.write()
    assert cli.main(["render", "manifests", *render]) == 0
    *_, example = yaml.safe_load_all(capsys.readouterr().out)
    assert example["spec"]["template"]["spec"].get("securityContext") == security


def test_a_store_that_ends_with_the_pod(
    render: list[str], place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotating refresh token without a store that outlives the pod is refused here, whatever this machine keeps."""
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/token-sidecar")
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    token = place.document["tokens"]["gmail"]
    token["provider"] = {"token_url": "https://crm.example/oauth2/token", "rotation": "always"}
    place.write()
    assert cli.main(["render", "manifests", *render]) == 2
    assert "lost with the pod" in capsys.readouterr().err

    for store in ("sqlite:////var/lib/records/tokens.db", {"url_file": "/etc/database/url"}):
        place.document["store"] = store
        place.write()
        assert cli.main(["render", "manifests", *render]) == 0


def test_this_machine_does_not_matter(
    render: list[str], place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is looked for on this machine's disk, and the pod's own variables are known."""
    place.document["tokens"]["gmail"]["seed"] = "/etc/${POD_NAMESPACE}/${POD_NAME}-${POD_UID}"
    place.write()
    assert cli.main(["render", "manifests", *render]) == 0
    assert "/etc/${POD_NAMESPACE}/${POD_NAME}-${POD_UID}" in capsys.readouterr().out


def test_a_chart_that_drops_restart_policy(render: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The values say how to notice it, and what to do then."""
    assert cli.main(["render", "values", *render]) == 0
    told = " ".join(capsys.readouterr().out.replace("\n#", "").split())
    assert "must have `restartPolicy: Always`" in told
    assert "or --classic" in told
