"""Assembles the root directory of the image: an interpreter, what it needs, and nothing that could install more.

`root.py VENV ROOT` runs in the build stage, on the interpreter that VENV was made with, and everything keeps its path.
So the virtual environment needs no relocation, and wheels meet the very C library that they were installed beside.
Left out are the shell, the package managers (pip's copy in ensurepip too) and all that no shared library asks for.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

STDLIB = Path(sysconfig.get_path("stdlib"))
UNUSED = shutil.ignore_patterns(
    *("test", "tests", "idlelib", "tkinter", "_tkinter*", "turtledemo", "lib2to3", "pydoc_data"),
    *("ensurepip", "site-packages", "config-*", "__pycache__"),
)
TRUST = ("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/usr/lib/ssl", "/usr/share/ca-certificates")
FILES = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
MOUNT_POINTS = ("dev", "proc", "sys", "tmp", "etc/token-sidecar", "run/tokens", "run/token-sidecar")
NONROOT = 65532
DPKG = Path("/var/lib/dpkg")


def main(venv: Path, root: Path) -> None:
    """Fill ROOT, which must not exist yet."""
    _lay_out(root)
    interpreter = Path(os.path.realpath(sys.executable))
    _copy(interpreter, root)
    for link in interpreter.parent.glob("python*"):
        if link.is_symlink() and link.resolve() == interpreter:
            _copy_as_it_is(link, root)
    _copy_tree(STDLIB, root, UNUSED)
    _copy_tree(venv, root)
    objects = [interpreter, *_objects(_under(root, STDLIB)), *_objects(_under(root, venv))]
    libraries = _libraries(objects)
    for library in libraries:
        _copy(library, root)
    for place in map(Path, TRUST):
        if place.is_dir():
            _copy_tree(place, root)
        elif place.exists():
            _copy(place, root)
    for file in ("/etc/os-release", "/etc/ld.so.cache"):
        _copy(Path(file), root)
    _tell_scanners(libraries, root)
    _compile(_under(root, STDLIB), root)


def _lay_out(root: Path) -> None:
    root.mkdir(mode=0o755, parents=True)
    for name in ("lib", "lib64"):
        # Debian's have been links for years; the loader's path is written into every binary.
        link = Path("/", name)
        if link.is_symlink():
            (root / link.readlink()).mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(link.readlink())
    for name in MOUNT_POINTS:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name, text in FILES.items():
        (root / name).write_text(text, encoding="ascii")
    state = root / "run/token-sidecar"
    state.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(state, NONROOT, NONROOT)


def _under(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _copy(path: Path, root: Path) -> None:
    """Copy a file, a link as what it leads to."""
    target = _under(root, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(path, target)


def _copy_as_it_is(link: Path, root: Path) -> None:
    _under(root, link).symlink_to(link.readlink())


def _copy_tree(tree: Path, root: Path, ignore: object = None) -> None:
    shutil.copytree(tree, _under(root, tree), symlinks=True, dirs_exist_ok=True, ignore=ignore)  # type: ignore[arg-type]


def _objects(tree: Path) -> list[Path]:
    return [path for path in tree.rglob("*.so*") if path.is_file() and not path.is_symlink()]


def _libraries(objects: list[Path]) -> list[Path]:
    """Find the shared libraries that these need; what lies inside their own trees is there already."""
    told = subprocess.run(["ldd", *objects], capture_output=True, text=True, check=False).stdout  # noqa: S603, S607
    if missing := sorted(set(re.findall(r"(\S+) => not found", told))):
        sys.exit(f"root.py: nobody has {', '.join(missing)}: install it in the build stage")
    found = {Path(path) for path in re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", told, re.MULTILINE)}
    # The C library opens this one by itself, when a thread ends.
    found |= {path.with_name("libgcc_s.so.1") for path in found if path.name == "libc.so.6"}
    return sorted(path for path in found if path not in objects)


def _tell_scanners(libraries: list[Path], root: Path) -> None:
    """Keep the packages' entries, one file each, where scanners look in images without a package manager."""
    if not DPKG.exists():
        return
    wanted = {_real(library) for library in libraries}
    stanzas = {
        stanza.partition("\n")[0].removeprefix("Package: "): stanza
        for stanza in (DPKG / "status").read_text(encoding="utf-8").split("\n\n")
    }
    folder = _under(root, DPKG) / "status.d"
    folder.mkdir(parents=True)
    for listing in (DPKG / "info").glob("*.list"):
        package = listing.stem.partition(":")[0]
        owned = {_real(Path(path)) for path in listing.read_text(encoding="utf-8").splitlines()}
        if package == "ca-certificates" or owned & wanted:
            (folder / package).write_text(stanzas[package] + "\n", encoding="utf-8")
            licence = Path("/usr/share/doc", package, "copyright")
            if licence.exists():
                _copy(licence, root)


def _real(path: Path) -> str:
    """Write a path in one way, whichever of the linked directories it goes through; the file may be a link itself."""
    return os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118


def _compile(tree: Path, root: Path) -> None:
    """Compile what the official image leaves in source: the running container can't, and every start would."""
    compileall.compile_dir(
        tree,
        quiet=1,
        stripdir=str(root),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
