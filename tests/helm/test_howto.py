"""The how-to, followed word for word: its own blocks make a chart."""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm import pss, schemas
from tests.helm.release import CHARTS, Helm, Manifest, copy, merged, one, pod, sidecar

PAGE = CHARTS.parent / "docs" / "howto" / "kubernetes-sidecar.md"
FENCE = re.compile(r"^( *)```yaml\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[str]:
    """Return the page's YAML, in order."""
    return [textwrap.dedent(text) for _, text in FENCE.findall(PAGE.read_text(encoding="utf-8"))]


def values() -> list[dict[str, Any]]:
    """Return every block that shows values of the chart."""
    found = (yaml.safe_load(block) for block in blocks() if "{{" not in block)
    return [block for block in found if isinstance(block, dict) and "token-sidecar" in block]


@pytest.fixture(scope="module")
def mailer(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the how-to's chart."""
    chart = copy(tmp_path_factory.mktemp("howto"), "token-sidecar") / "mailer"
    (chart / "templates").mkdir(parents=True)
    [about] = [block for block in blocks() if "dependencies:" in block]
    [deployment] = [block for block in blocks() if "token-sidecar.initContainers" in block]
    [first, *_] = values()
    (chart / "Chart.yaml").write_text(about, encoding="utf-8")
    (chart / "values.yaml").write_text(yaml.safe_dump(first), encoding="utf-8")
    (chart / "templates" / "deployment.yaml").write_text(deployment, encoding="utf-8")
    helm.run("dependency", "build", str(chart))
    return chart


def test_its_steps_make_a_pod_with_a_sidecar(helm: Helm, mailer: Path) -> None:
    """Chart.yaml, values and Deployment of the page render to what every release accepts, and "restricted" admits."""
    manifests = helm.template(mailer)

    assert sidecar(pod(manifests))["restartPolicy"] == "Always"
    for found in (pod(manifests), one(manifests, "Pod")):
        assert pss.violations(found) == []
    assert [
        said
        for release in schemas.NATIVE
        for manifest in manifests
        for said in schemas.mistakes(manifest, release)
    ] == []


@pytest.mark.parametrize("shown", values()[1:], ids=lambda shown: ",".join(shown["token-sidecar"]))
def test_all_values_that_it_shows_can_be_used(helm: Helm, mailer: Path, shown: dict[str, Any]) -> None:
    """Each block of values renders, and does something to a release that keeps its records in Secrets."""
    before = {
        "token-sidecar": {"serviceAccount": {"name": "mailer"}, "config": {"store": "kubernetes://mail/x"}}
    }
    manifests = helm.template(mailer, merged(before, shown))

    assert manifests != helm.template(mailer, before)
    assert [said for manifest in manifests for said in schemas.mistakes(manifest, "1.36")] == []


def test_charts_below_an_umbrella_keep_apart(helm: Helm, mailer: Path, tmp_path: Path) -> None:
    """With the values that the page shows, no object of the two applications has a name twice."""
    [names] = [block for block in blocks() if block.startswith("mailer:")]
    about: dict[str, Any] = {"apiVersion": "v2", "name": "umbrella", "version": "1.0.0"}
    for name in yaml.safe_load(names):
        part = tmp_path / "charts" / name
        shutil.copytree(mailer, part)
        said = (part / "Chart.yaml").read_text(encoding="utf-8").replace("name: mailer", f"name: {name}")
        (part / "Chart.yaml").write_text(said, encoding="utf-8")
        deployment = part / "templates" / "deployment.yaml"
        said = deployment.read_text(encoding="utf-8").replace(".Release.Name", ".Chart.Name")
        deployment.write_text(said, encoding="utf-8")
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")

    def twice(values: dict[str, Any]) -> set[str]:
        found = [f"{each['kind']} {each['metadata']['name']}" for each in helm.template(tmp_path, values)]
        return {each for each in found if found.count(each) > 1}

    assert twice({}) == {"ConfigMap basketball-token-sidecar", "Pod basketball-token-sidecar-test"}
    assert twice(yaml.safe_load(names)) == set()


def test_the_pod_runs_as_the_account_that_the_role_is_bound_to(helm: Helm, mailer: Path) -> None:
    """With the page's store in Secrets, the account is made, has the Role, and is the Deployment's."""
    [shown] = [each for each in values() if "kubernetes://" in str(each)]
    manifests = helm.template(mailer, shown)
    account = one(manifests, "ServiceAccount")["metadata"]["name"]

    assert pod(manifests)["spec"]["serviceAccountName"] == account
    assert [each["name"] for each in one(manifests, "RoleBinding")["subjects"]] == [account]


def contained(part: Any, whole: Any) -> bool:
    """Tell whether all of one is in the other; items of lists are found by their name."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and contained(value, whole[key]) for key, value in part.items()
        )
    if isinstance(part, list) and part and isinstance(part[0], dict):
        return all(any(contained(item, other) for other in whole) for item in part)
    return bool(part == whole)


def test_the_pod_by_hand_is_the_charts(helm: Helm, mailer: Path) -> None:
    """What the page shows at its end is contained in what the chart renders."""
    [shown] = [block for block in blocks() if "kind: Pod" in block]
    by_hand: Manifest = yaml.safe_load(shown)
    rendered = pod(helm.template(mailer))

    assert contained(sidecar(by_hand), sidecar(rendered))
    assert [volume["name"] for volume in by_hand["spec"]["volumes"]] == [
        volume["name"] for volume in rendered["spec"]["volumes"]
    ]
    for key in ("automountServiceAccountToken", "securityContext"):
        assert by_hand["spec"][key] == rendered["spec"][key]
    application = by_hand["spec"]["containers"][0]["volumeMounts"]
    assert application == rendered["spec"]["containers"][0]["volumeMounts"]
    assert schemas.mistakes(by_hand, "1.29") == []
