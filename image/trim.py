"""Takes out of an installed virtual environment what the daemon never opens, and compiles what is left.

`trim.py VENV` runs in the build stage.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

AWS_SERVICES = {"secretsmanager", "sts", "sso", "sso-oidc", "signin"}
"""Those that a store, an output or a seed in AWS needs, and those that give credentials; botocore describes 400."""

SOURCES = {".c", ".h", ".pyx", ".pxd", ".pyi"}
"""For those who compile or check types."""


def main(venv: Path) -> None:
    """Trim VENV in place."""
    packages = next(venv.glob("lib/python3*/site-packages"))
    _services(packages / "botocore" / "data")
    for folder in [path for path in packages.glob("*/tests") if path.is_dir()]:
        shutil.rmtree(folder)
    for path in [path for path in packages.rglob("*") if path.suffix in SOURCES]:
        path.unlink()
    _debug_symbols([path for path in packages.rglob("*.so*") if path.is_file()])
    compileall.compile_dir(packages, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


def _services(data: Path) -> None:
    if not data.exists():
        return  # the extra isn't installed
    services = {path.name for path in data.iterdir() if path.is_dir()}
    if missing := AWS_SERVICES - services:
        sys.exit(f"trim.py: botocore has no {', '.join(sorted(missing))} any more")
    for service in services - AWS_SERVICES:
        shutil.rmtree(data / service)


def _debug_symbols(objects: list[Path]) -> None:
    """Strip what only a debugger reads; some wheels are nine tenths of it."""
    subprocess.run(["strip", "--strip-debug", *objects], check=True)  # noqa: S603, S607


if __name__ == "__main__":
    main(Path(sys.argv[1]))
