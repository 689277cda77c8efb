"""The release's charts, packaged by the workflow's own script."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.helm.release import CHARTS, Helm, HelmError, copy, one, sidecar

WORKFLOW = CHARTS.parent / ".github" / "workflows" / "release.yml"
IMAGE = "registry.example/team/token-sidecar"
CONFIG = {
    "tokens": {"t": {"provider": "google", "client": {"id": "x"}, "outputs": [{"file": "/run/tokens/t"}]}}
}


def package(helm: Helm, folder: Path, tag: str) -> Path:
    """Run the workflow's step on a copy of the charts, for a tag; returns where the packages are."""
    copy(folder / "helm", "token-sidecar", "token-sidecar-injector")
    [step] = [
        each
        for each in yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["charts"]["steps"]
        if each.get("id") == "package"
    ]
    helm.script(step["run"], folder, GITHUB_REF_NAME=tag, IMAGE=IMAGE)
    return folder / "packages"


@pytest.mark.parametrize("version", ["1.2.3", "1.2.3-rc.1"])
def test_the_packaged_charts_run_the_released_image(helm: Helm, tmp_path: Path, version: str) -> None:
    """Both charts have the tag's version, and what the injector puts in is the image of that release too."""
    packages = package(helm, tmp_path, f"v{version}")
    names = ("token-sidecar", "token-sidecar-injector")

    assert {path.name for path in packages.iterdir()} == {f"{name}-{version}.tgz" for name in names}
    for name in names:
        about = yaml.safe_load(helm.run("show", "chart", str(packages / f"{name}-{version}.tgz")))
        assert (about["version"], about["appVersion"]) == (version, version)
        assert "0.1.0" not in str(about)
    injector = helm.template(packages / f"token-sidecar-injector-{version}.tgz")
    assert f'"{IMAGE}:{version}"' in str(one(injector, "MutatingAdmissionPolicy")["spec"]["variables"])
    [chart] = packages.glob(f"token-sidecar-{version}.tgz")
    [test] = [each for each in helm.template(chart, {"config": CONFIG}) if each["kind"] == "Pod"]
    assert sidecar(test)["image"] == f"{IMAGE}:{version}"


@pytest.mark.parametrize("tag", ["v1.2", "vnext", "v1.2.3,e", "v1.2.3+build"])
def test_a_tag_that_is_no_version_packages_nothing(helm: Helm, tmp_path: Path, tag: str) -> None:
    """A tag's name reaches sed's program, which can run commands: none but a version gets that far."""
    with pytest.raises(HelmError, match="is no version"):
        package(helm, tmp_path, tag)
    assert not (tmp_path / "packages").exists()
