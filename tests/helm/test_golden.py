from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helm.cases import CASES
from tests.helm.release import Helm

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("case", CASES)
def test_the_manifests_are_the_ones_that_were_looked_at(helm: Helm, app: Path, case: str) -> None:
    """What a change does to the manifests is seen in its diff; `make chart` takes it over."""
    rendered = helm.text(app, CASES[case])
    file = GOLDEN / f"{case}.yaml"
    if os.environ.get("TOKEN_SIDECAR_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(rendered, encoding="utf-8")

    assert rendered == file.read_text(encoding="utf-8"), "take it over with: make chart"


def test_no_golden_file_is_left_over() -> None:
    """Each belongs to a case."""
    assert {file.stem for file in GOLDEN.iterdir()} == set(CASES)
