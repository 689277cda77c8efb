"""The how-to for somebody else's charts, followed word for word."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import cli
from tests.helm.admission import Admission
from tests.helm.release import CHARTS, Helm, one, pod, sidecar

PAGE = (CHARTS.parent / "docs" / "howto" / "kubernetes-foreign-charts.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """Return the page's blocks of a language, in order."""
    return [
        re.sub(f"^{indent}", "", text, flags=re.MULTILINE)
        for indent, kind, text in FENCE.findall(PAGE)
        if kind == language
    ]


def commands() -> list[list[str]]:
    """Return the arguments of each call of `render`."""
    typed = " \n".join(blocks("console")).replace("\\\n", " ").splitlines()
    return [
        shlex.split(line.partition(" | ")[0])[2:]
        for line in typed
        if line.startswith("$ token-sidecar render")
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a directory with the page's configuration."""
    config = next(block for block in blocks("yaml") if yaml.safe_load(block).keys() == {"tokens"})
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", commands(), ids=" ".join)
@pytest.mark.usefixtures("place")
def test_every_command_does_something(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each is accepted with the page's configuration, and writes YAML."""
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    assert "is written" in told or any(yaml.safe_load_all(told))


@pytest.mark.usefixtures("place")
def test_the_config_map_is_the_one_that_is_written(
    helm: Helm, injector: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the page shows injects what the command's own does, into a pod with the page's label."""
    [command] = [command for command in commands() if "injector" in command]
    assert cli.main(command) == 0
    [written] = yaml.safe_load_all(capsys.readouterr().out)
    [shown] = [yaml.safe_load(block) for block in blocks("yaml") if "kind: ConfigMap" in block]
    [labels] = [yaml.safe_load(block)["podLabels"] for block in blocks("yaml") if "podLabels" in block]

    def read(config_map: Any) -> Any:
        return {**config_map["data"], "config.yaml": yaml.safe_load(config_map["data"]["config.yaml"])}

    assert read(shown) == read(written)
    before = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app"}]}}
    admission = Admission(helm.template(injector))
    assert admission.admit(before, [shown]) == admission.admit(before, [written]) != before


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl, which the script calls")
def test_the_post_renderer(place: Path, helm: Helm, app: Path) -> None:
    """The page's script puts the sidecar into what Helm rendered, with all that stands beside it."""
    [command] = [command for command in commands() if "token-sidecar-renderer/sidecar" in command]
    assert cli.main(command) == 0
    [script] = blocks("sh")
    file = place / "token-sidecar-renderer" / "render.sh"
    file.write_text(script, encoding="utf-8")
    file.chmod(0o755)
    bare = '{"token-sidecar": {"enabled": false}}'
    program = ("--post-renderer", str(file))
    given = ("template", "mailer", str(app), "--namespace", "mail", "--values", "-")
    found = [*yaml.safe_load_all(helm.run(*given, *program, given=bare))]

    assert sidecar(pod(found))["restartPolicy"] == "Always"
    assert one(found, "ConfigMap")["metadata"]["namespace"] == "mail"
    before = [*yaml.safe_load_all(helm.run(*given, given=bare))]
    assert {kind["kind"] for kind in before if kind} | {"ConfigMap"} == {
        kind["kind"] for kind in found if kind
    }


def test_the_plugin_has_the_form_that_helm_4_takes() -> None:
    """Its manifest is the page's, and names the script beside it."""
    [plugin] = [yaml.safe_load(block) for block in blocks("yaml") if "postrenderer/v1" in block]
    assert plugin["runtimeConfig"]["platformCommand"] == [{"command": "${HELM_PLUGIN_DIR}/render.sh"}]
    assert set(plugin) == {"apiVersion", "type", "name", "version", "runtime", "runtimeConfig"}
