"""The quick start's second half: its commands, typed one after the other, make a pod that really runs.

Helm renders what it would install. What a cluster does with that is done by hand: the containers of the pod are started
in order, from the image's own root, each with its own user, command, environment and mounts, on one network.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.docs.following import masked
from tests.docs.pages import DOCS, ROOT
from tests.docs.pages import of as blocks
from tests.docs.test_quickstart import SECOND_HALF
from tests.e2e.conftest import wait_until
from tests.helm import pss, schemas
from tests.helm.conftest import helm
from tests.helm.release import KUBERNETES, one
from tests.pod.conftest import LONG, VENV, Container, Mount, User

if TYPE_CHECKING:
    from tests.helm.release import Helm, Manifest
    from tests.pod.conftest import MakePod, Pod

__all__ = ["helm"]

pytestmark = LONG
PAGE = DOCS / "tutorial" / "quickstart.md"
HEREDOC = re.compile(r"^cat > (\S+) <<'END'\n(.*?)^END\n", re.MULTILINE | re.DOTALL)
IMAGE_USER = 65532
ENTRYPOINT = ["token-sidecar"]


class Cluster:
    """One node, as far as the page needs it."""

    def __init__(self, helm: Helm, volumes: Pod, folder: Path) -> None:
        self._helm = helm
        self._pod = volumes
        self._folder = folder
        self.containers: dict[str, Container] = {}
        self.manifests: list[Manifest] = []
        self.printed: list[str] = []

    def type(self, line: str) -> None:
        """Do what a line of the page does."""
        match shlex.split(line):
            case ["docker", "build", *_] | ["kind", "load", *_]:
                assert "token-sidecar:0.1.0" in line
                assert (ROOT / "Dockerfile").is_file()
            case ["helm", "install", release, chart, "--wait"]:
                text = self._helm.script(
                    f"helm template {release} {chart} --kube-version {KUBERNETES}", self._folder
                )
                self.manifests = [each for each in yaml.safe_load_all(text) if each]
                self._start(one(self.manifests, "Pod"))
            case ["helm", "uninstall", _]:
                # The application doesn't heed SIGTERM: as process 1 it would have to have a handler.
                self.containers["app"].stop(signal.SIGKILL)
                assert self.containers["token-sidecar"].stop() == 0
                assert self.containers["provider"].stop() == 0
            case ["helm", *_] | ["mkdir", *_]:
                self._helm.script(line, self._folder)
            case ["kubectl", "logs", _, "--container", name, "--tail", lines]:
                wait_until(lambda: self.containers[name].text().count("\n") > int(lines), what="it prints")
                self.printed += self.containers[name].text().splitlines()[-int(lines) :]
            case ["kubectl", "exec", _, "--container", name, "--", *command]:
                done = self.containers[name].exec(*command)
                assert done.returncode == 0, done.stderr
                self.printed += done.stdout.splitlines()
            case _:
                pytest.fail(f"nobody here knows how to: {line}")

    def _start(self, pod: Manifest) -> None:
        spec = pod["spec"]
        fs_group = spec["securityContext"]["fsGroup"]
        places = {volume["name"]: self._volume(volume, spec) for volume in spec["volumes"]}
        for container in (*spec["initContainers"], *spec["containers"]):
            mounts = [
                Mount(places[each["name"]], each["mountPath"], each.get("readOnly", False))
                for each in container["volumeMounts"]
            ]
            context = container.get("securityContext", {})
            who = context.get("runAsUser", IMAGE_USER)
            # Who is given a user and no group is in root's.
            primary = context.get("runAsGroup", 0 if "runAsUser" in context else IMAGE_USER)
            words = [*container.get("command", ENTRYPOINT), *container.get("args", [])]
            if words[0] == "python":
                words[0] = f"{VENV}/bin/python"
            others = next(iter(self.containers.values()), None)
            self.containers[container["name"]] = started = self._pod._run(
                mounts, User(who, primary, (fs_group,)), words, net=others or "true"
            )
            self._wait(started, container.get("startupProbe", {}))

    def _volume(self, volume: dict[str, Any], spec: dict[str, Any]) -> Path:
        place = self._pod.home / str(volume["name"])
        place.mkdir()
        if "configMap" in volume:
            for name, text in one(self.manifests, "ConfigMap")["data"].items():
                (place / name).write_text(text, encoding="utf-8")
        else:
            assert volume["emptyDir"]["medium"] == "Memory"
            shutil.chown(place, group=spec["securityContext"]["fsGroup"])
            place.chmod(0o2777)
        return place

    def _wait(self, container: Container, probe: dict[str, Any]) -> None:
        def passed() -> bool:
            if "exec" in probe:
                return container.exec(*probe["exec"]["command"]).returncode == 0
            try:
                return container.get("::1", probe["httpGet"]["path"]).status == 200
            except OSError:
                return False

        if probe:
            wait_until(lambda: container.ended or passed(), what=f"started\n{container.text()}")
            assert not container.ended, container.text()


def test_the_second_half_does_what_it_says(helm: Helm, make_pod: MakePod, tmp_path: Path) -> None:
    """The page's chart renders to a pod that "restricted" admits, and that prints what the page shows."""
    shutil.copytree(ROOT / "helm", tmp_path / "helm", ignore=shutil.ignore_patterns("charts", "Chart.lock"))
    start = PAGE.read_text("utf-8").count("\n", 0, PAGE.read_text("utf-8").index(f"\n{SECOND_HALF}\n"))
    half = [block for block in blocks("sh", "text", pages=[PAGE]) if block.line > start]
    cluster = Cluster(helm, make_pod(), tmp_path)

    for block in (block for block in half if block.language == "sh"):
        commands = HEREDOC.sub(lambda file: f"FILE {json.dumps([file[1], file[2]])}\n", block.text)
        for line in commands.splitlines():
            if line.startswith("FILE "):
                name, text = json.loads(line.removeprefix("FILE "))
                (tmp_path / name).write_text(text, encoding="utf-8")
            else:
                cluster.type(line)

    told = {masked(line) for line in cluster.printed}
    shown = {masked(line) for block in half if block.language == "text" for line in block.text.splitlines()}
    assert len(shown) > 1
    assert not {line for line in shown if not any(line in one for one in told)}, cluster.printed
    assert pss.violations(one(cluster.manifests, "Pod")) == []
    assert [said for each in cluster.manifests for said in schemas.mistakes(each, "1.29")] == []
    assert all(container.ended for container in cluster.containers.values())
