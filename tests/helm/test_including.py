from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm import schemas
from tests.helm.cases import CASES, GMAIL
from tests.helm.release import Helm, HelmError, Manifest, copy, one, pod, sidecar

POD = """
apiVersion: v1
kind: Pod
metadata:
  name: app
  annotations: {{- include "token-sidecar.podAnnotations" SCOPE | nindent 4 }}
spec:
  serviceAccountName: {{ include "token-sidecar.serviceAccountName" SCOPE }}
  initContainers: {{- include "token-sidecar.initContainers" SCOPE | nindent 4 }}
  containers:
    - name: app
      image: app
      volumeMounts: {{- include "token-sidecar.appVolumeMount" SCOPE | nindent 8 }}
    {{- include "token-sidecar.containers" SCOPE | nindent 4 }}
  volumes: {{- include "token-sidecar.volumes" SCOPE | nindent 4 }}
"""
NOTES = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: notes
data:
  text: {{ include "token-sidecar.notes" SCOPE | toJson }}
"""
CONFIG = {"config": {"tokens": {"gmail": GMAIL}}, "test": {"enabled": False}}


class Parent:
    """A chart that depends on ours under some names, and includes its templates with some scope."""

    def __init__(self, helm: Helm, folder: Path, *aliases: str, scope: str = ".") -> None:
        self._helm = helm
        self._chart = copy(folder, "token-sidecar") / "parent"
        (self._chart / "templates").mkdir(parents=True)
        names = [
            {"name": "token-sidecar"}
            if alias == "token-sidecar"
            else {"name": "token-sidecar", "alias": alias}
            for alias in aliases
        ]
        where = {"version": "0.1.0", "repository": "file://../token-sidecar"}
        about = {
            "apiVersion": "v2",
            "name": "parent",
            "version": "0.1.0",
            "dependencies": [{**name, **where} for name in names],
        }
        (self._chart / "Chart.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")
        for name, text in {"pod": POD, "notes": NOTES}.items():
            (self._chart / "templates" / f"{name}.yaml").write_text(
                text.replace("SCOPE", scope), encoding="utf-8"
            )
        helm.run("dependency", "build", str(self._chart))

    def render(self, values: dict[str, Any], *, kubernetes: str = "1.36.0") -> list[Manifest]:
        """Render it."""
        return self._helm.template(self._chart, values, kubernetes=kubernetes)


@pytest.mark.parametrize("alias", ["token-sidecar", "tokenSidecar", "mail"])
def test_a_dot_is_enough_under_any_alias(helm: Helm, tmp_path: Path, alias: str) -> None:
    """The templates take the including chart's own scope and find their values, whatever the dependency is called."""
    manifests = Parent(helm, tmp_path, alias).render({alias: {**CONFIG, "tokensSizeLimit": "3Mi"}})

    found = one(manifests, "Pod")
    assert sidecar(found)["restartPolicy"] == "Always"
    volumes = {volume["name"]: volume for volume in found["spec"]["volumes"]}
    assert volumes["token-sidecar-tokens"]["emptyDir"]["sizeLimit"] == "3Mi"
    name = volumes["token-sidecar-config"]["configMap"]["name"]
    assert name == {"mail": "basketball-mail"}.get(alias, "basketball-token-sidecar")
    assert (
        one(manifests, "ConfigMap", name=name)["metadata"]["labels"]["app.kubernetes.io/name"]
        == "token-sidecar"
    )


def test_the_dependencys_own_scope_is_taken_too(helm: Helm, tmp_path: Path) -> None:
    """Whoever passes it gets the same; with two dependencies it says which one is meant."""
    parent = Parent(helm, tmp_path, "mail", "calendar", scope='(index .Subcharts "calendar")')
    manifests = parent.render({"mail": CONFIG, "calendar": {**CONFIG, "tokensDirectory": "/run/tokens"}})

    volumes = {volume["name"]: volume for volume in one(manifests, "Pod")["spec"]["volumes"]}
    assert volumes["token-sidecar-config"]["configMap"]["name"] == "basketball-calendar"
    assert {one["metadata"]["name"] for one in manifests if one["kind"] == "ConfigMap"} == {
        "basketball-calendar",
        "basketball-mail",
        "notes",
    }


def test_long_names_under_two_aliases(helm: Helm, tmp_path: Path) -> None:
    """What differs only where a name has to end gets different names all the same, and no name is too long."""
    aliases = [f"{'m' * 60}{end}" for end in "ab"]
    parent = Parent(helm, tmp_path, *aliases, scope=f'(index .Subcharts "{aliases[0]}")')
    values = {**CONFIG, "test": {"enabled": True}, "dashboard": {"enabled": True}}

    manifests = parent.render(dict.fromkeys(aliases, values))

    names = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert sorted(kind for kind, _ in names) == ["ConfigMap"] * 5 + ["Pod"] * 3
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 for _, name in names)


@pytest.mark.parametrize(
    ("aliases", "scope", "said"),
    [
        (["mail", "calendar"], ".", '(index .Subcharts "calendar")'),
        (["token-sidecar"], ".Values", "include them with `.`"),
        (["token-sidecar"], '"app"', "include them with `.`"),
    ],
)
def test_a_scope_that_wont_do_is_explained(
    helm: Helm, tmp_path: Path, aliases: list[str], scope: str, said: str
) -> None:
    """It says what to pass instead."""
    parent = Parent(helm, tmp_path, *aliases, scope=scope)

    with pytest.raises(HelmError) as caught:
        parent.render(dict.fromkeys(aliases, CONFIG))

    assert said in str(caught.value)


def test_a_chart_that_forgot_the_dependency_is_told(helm: Helm, tmp_path: Path) -> None:
    """Where the templates come with somebody else's chart and no dependency of one's own, it says what to add."""
    inner = Parent(helm, tmp_path, "token-sidecar")._chart
    outer = tmp_path / "outer"
    (outer / "templates").mkdir(parents=True)
    dependency = {"name": "parent", "version": "0.1.0", "repository": "file://../parent"}
    about = {"apiVersion": "v2", "name": "outer", "version": "0.1.0", "dependencies": [dependency]}
    (outer / "Chart.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")
    (outer / "templates" / "pod.yaml").write_text(POD.replace("SCOPE", "."), encoding="utf-8")
    assert inner.name == "parent"
    helm.run("dependency", "build", str(outer))

    with pytest.raises(HelmError) as caught:
        helm.template(outer, {"parent": {"token-sidecar": CONFIG}})

    assert "chart outer doesn't depend on it; add it to `dependencies`" in str(caught.value)


def test_old_clusters_are_told_of_the_other_way(helm: Helm, app: Path) -> None:
    """Kubernetes before 1.29 would run the sidecar to its end before the application starts, so that never renders."""
    with pytest.raises(HelmError) as caught:
        helm.text(app, kubernetes="1.28.3")

    assert "has no native sidecars (1.29 has); set token-sidecar.native to false" in str(caught.value)


@pytest.mark.parametrize("release", ["1.25", "1.26", "1.27", "1.28"])
def test_old_clusters_accept_the_classic_container(helm: Helm, app: Path, release: str) -> None:
    """What `native: false` renders is accepted by releases without native sidecars."""
    manifests = helm.template(app, CASES["classic"], kubernetes=f"{release}.0")

    assert [said for manifest in manifests for said in schemas.mistakes(manifest, release)] == []
    assert sidecar(pod(manifests))["name"] == "token-sidecar"


@pytest.mark.parametrize("case", ["deployment", "classic", "kubernetes"])
def test_the_notes_say_what_to_do(helm: Helm, tmp_path: Path, case: str) -> None:
    """They name the tokens, the commands that ask for consent and show them, and what each probe means."""
    values = {**CONFIG, "test": {"enabled": True}, **CASES[case].get("token-sidecar", {})}
    notes = one(
        Parent(helm, tmp_path, "token-sidecar").render({"token-sidecar": values}), "ConfigMap", name="notes"
    )
    text = notes["data"]["text"]

    for said in ("keeps gmail", "token-sidecar status", "token-sidecar doctor", "helm test basketball"):
        assert said in text.replace("keeps Alice_Smith, gmail", "keeps gmail")
    # With `native: false` there is no container to run it in before there is a token.
    assert ("token-sidecar login gmail --no-browser" in text) is (case != "classic")
    for probe in ("startup ", "readiness ", "liveness "):
        assert probe in text
    assert ("never completes" in text) is (case == "classic")
    assert ("automountServiceAccountToken: false" in text) is (case == "kubernetes")


@pytest.mark.parametrize("chart", ["token-sidecar", "example-app"])
def test_helm_finds_nothing_to_complain_about(helm: Helm, charts: Path, chart: str) -> None:
    """`helm lint --strict` accepts the charts as they are, and with each file of values in ci/."""
    files = sorted((charts / chart / "ci").glob("*-values.yaml"))
    assert files or chart == "example-app"

    for values in [[], *([f"--values={file}"] for file in files)]:
        assert "0 chart(s) failed" in helm.run("lint", "--strict", str(charts / chart), *values)


def test_the_package_has_what_the_templates_read(helm: Helm, chart: Path, tmp_path: Path) -> None:
    """Alerts, dashboard, test and schema go with the chart; what is for its own tests stays behind."""
    helm.run("package", str(chart), "--destination", str(tmp_path))

    [package] = tmp_path.glob("token-sidecar-*.tgz")
    with tarfile.open(package) as files:
        names = {name.removeprefix("token-sidecar/") for name in files.getnames()}
    assert {
        "values.schema.json",
        "README.md",
        "files/alerts.yaml",
        "files/dashboard.json",
        "files/read.py",
    } <= names
    assert not [name for name in names if name.startswith("ci/")]
