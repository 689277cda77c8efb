"""Writes the bill of materials of what is installed with the wheel, as CycloneDX: `make sbom`.

`bill.py PYTHON FILE` describes those packages of PYTHON's environment that requirements/all.txt pins: name, version,
licence, and what depends on what. Where they were fetched from is the affair of whoever installed them, and not in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from supply.pins import pins

PROJECT = Path(__file__).parents[1]
PINNED = PROJECT / "requirements" / "all.txt"
UNDECLARED = {"protobuf": "BSD-3-Clause"}
"""Licences that are in a package's LICENSE file and not in its metadata; each was read by a human."""


def main(python: str, file: Path) -> None:
    """Write FILE, or end with what is wrong."""
    pinned = pins(PINNED)
    whole = environment(python)
    components = {each["bom-ref"]: each for each in whole["components"] if identity(each) in pinned}
    if missing := pinned - set(map(identity, components.values())):
        sys.exit(f"bill.py: not installed as pinned: {missing}; make the environment anew")
    for each in components.values():
        each.pop("externalReferences", None)
        name, _ = identity(each)
        if not each.get("licenses"):
            if name not in UNDECLARED:
                sys.exit(f"bill.py: {name} declares no licence; read its LICENSE, and add it to UNDECLARED")
            each["licenses"] = [{"license": {"id": UNDECLARED[name], "acknowledgement": "concluded"}}]
    root = whole["metadata"]["component"]["bom-ref"]
    for tool in whole["metadata"]["tools"]["components"]:
        tool.pop("externalReferences", None)
    kept = {root, *components}
    bill = whole | {
        "components": list(components.values()),
        "dependencies": [
            {"ref": each["ref"], "dependsOn": [ref for ref in each.get("dependsOn", []) if ref in kept]}
            for each in whole["dependencies"]
            if each["ref"] in kept
        ],
    }
    text = json.dumps(bill, indent=1, sort_keys=True) + "\n"
    if mistake := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"bill.py: this is no CycloneDX 1.6: {mistake}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    print(f"{file}: {len(components)} packages")


def identity(component: dict[str, Any]) -> tuple[str, str]:
    """Return a component's canonical name, and its version."""
    return canonicalize_name(component["name"]), component["version"]


def environment(python: str) -> dict[str, Any]:
    """Describe all of an environment. The outcome is validated, so that this needn't be, which takes ten seconds."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", python]
    options = [
        "--pyproject",
        "pyproject.toml",
        "--spec-version",
        "1.6",
        "--output-reproducible",
        "--no-validate",
    ]
    done = subprocess.run([*command, *options], cwd=PROJECT, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"bill.py: {python} could not be described: {done.stderr}")
    bill: dict[str, Any] = json.loads(done.stdout)
    return bill


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
