from __future__ import annotations

import os
from pathlib import Path
from textwrap import indent

import pytest

from tests.helm import documents
from tests.helm.cases import CASES
from tests.helm.release import Helm

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("case", CASES)
def test_the_manifests_are_the_ones_that_were_looked_at(helm: Helm, app: Path, case: str) -> None:
    """What a change does to the manifests is seen in its diff; `make chart` takes it over."""
    # The dashboard's thousands of lines are in the chart as they are here, and another test compares them.
    dashboard = indent(documents.DASHBOARD.read_text(encoding="utf-8"), 4 * " ")
    rendered = helm.text(app, CASES[case]).replace(dashboard, "    (files/dashboard.json)\n")
    file = GOLDEN / f"{case}.yaml"
    if os.environ.get("TOKEN_SIDECAR_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(rendered, encoding="utf-8")

    assert rendered == file.read_text(encoding="utf-8"), "take it over with: make chart"


def test_no_golden_file_is_left_over() -> None:
    """Each belongs to a case."""
    assert {file.stem for file in GOLDEN.iterdir()} == set(CASES)
