"""The bill of materials of what is installed with the wheel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from packaging.requirements import Requirement

Run = Callable[..., subprocess.CompletedProcess[str]]

PROJECT = Path(__file__).parents[2]


def test_the_bill_has_all_that_is_pinned(run: Run, tmp_path: Path) -> None:
    """Every package of requirements/all.txt that is installed here, its version and licence; no host, and no other."""
    file = tmp_path / "bill" / "token-sidecar.cdx.json"

    done = run("bill", sys.executable, file)

    assert done.returncode == 0, done.stderr
    text = file.read_text(encoding="utf-8")
    bill = json.loads(text)
    lines = re.findall(r"^\w.*?(?= \\$)", (PROJECT / "requirements/all.txt").read_text("utf-8"), re.MULTILINE)
    pins = [Requirement(line) for line in lines]
    listed = {
        (re.sub(r"[-_.]+", "-", each["name"]).lower(), each["version"]): each for each in bill["components"]
    }
    assert set(listed) == {
        (pin.name, str(pin.specifier)[2:]) for pin in pins if not pin.marker or pin.marker.evaluate()
    }
    assert len(listed) > 50
    assert all(each["licenses"] and each["purl"].startswith("pkg:") for each in bill["components"])
    assert set(re.findall(r"https?://([^/\"]+)", text)) == {"cyclonedx.org"}, "but for the schema's name"
    assert bill["metadata"]["component"]["name"] == "token-sidecar"
    (root,) = [each for each in bill["dependencies"] if each["ref"] == "root-component"]
    assert "anyio" in " ".join(root["dependsOn"])
    assert str(PROJECT) not in text


def test_the_bill_of_another_environment_is_refused(run: Run, tmp_path: Path) -> None:
    """Where a pinned package isn't installed, or in another version, there is no bill."""
    other = Path(sys.prefix) / "audit" / "bin" / "python"

    done = run("bill", other, tmp_path / "bill.json")

    assert done.returncode == 1
    assert "not installed as pinned" in done.stderr
    assert not (tmp_path / "bill.json").exists()
