"""Who may do what with the files of a pod: real processes, under the users and groups that pods have."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests import leaks
from tests.pod.conftest import LONG, NONROOT, Mount, User

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pod.conftest import MakePod, MakeSimulator, Pod

pytestmark = LONG

GROUP, PROJECT_UID = 2000, 1000680000
TOKENS = "/run/tokens"
SCRIPT = """
import contextlib, json, os, re
SECRET = re.compile(rb"sim-(at|rt|cs)-")
told = {"kinds": set(), "may": []}
for folder in ("/run", "/etc", "/tmp", "/dev"):
    for place, _, names in os.walk(folder):
        for path in filter(os.path.isfile, (os.path.join(place, name) for name in names)):
            with contextlib.suppress(OSError):
                found = SECRET.findall(open(path, "rb").read())
                told["kinds"] |= {kind.decode() for kind in found}
FILE, OTHER = "/run/tokens/gmail.json", "/run/tokens/other"
def replace():
    open(OTHER, "w").close()
    os.replace(OTHER, FILE)
ATTEMPTS = {
    "read": lambda: open(FILE).read(),
    "write": lambda: open(FILE, "r+").close(),
    "chmod": lambda: os.chmod(FILE, 0o666),
    "create": lambda: open(OTHER, "x").close(),
    "rename": lambda: os.rename(FILE, OTHER) or os.rename(OTHER, FILE),
    "replace": replace,
    "delete": lambda: os.unlink(FILE),
}
for name, attempt in ATTEMPTS.items():
    with contextlib.suppress(OSError):
        attempt()
        told["may"].append(name)
print(json.dumps({"kinds": sorted(told["kinds"]), "may": told["may"]}))
"""
"""Says which kinds of secrets can be read anywhere, and what else is allowed."""


class Case(NamedTuple):
    """Who the two containers are, and the pod's fsGroup."""

    sidecar: User
    app: User
    fs_group: int | None


CASES = {
    "a fixed user and a shared group": Case(
        NONROOT._replace(groups=(GROUP,)), User(1000, 1000, (GROUP,)), GROUP
    ),
    "an arbitrary user, as OpenShift gives": Case(
        User(PROJECT_UID, 0, (PROJECT_UID,)), User(PROJECT_UID, 0, (PROJECT_UID,)), PROJECT_UID
    ),
    "the application's user": Case(User(1000, 1000), User(1000, 1000), None),
}


def rotated(pod: Pod, user: User, make_simulator: MakeSimulator, **settings: object) -> None:
    """Run the sidecar until its refresh token was replaced, and leave it running."""
    pod.add(make_simulator(), **settings)
    container = pod.start(user)
    pod.wait_until(container, lambda: pod.answers("/readyz"), "it is ready")
    assert pod.control.refresh("gmail").refreshed


@pytest.fixture(scope="module", params=CASES)
def running(
    request: pytest.FixtureRequest, make_pod: MakePod, make_simulator: MakeSimulator
) -> tuple[Case, Pod]:
    """Give a pod of each kind, in which a refresh token was replaced."""
    case = CASES[request.param]
    pod = make_pod(fs_group=case.fs_group)
    rotated(pod, case.sidecar, make_simulator)
    return case, pod


def test_the_application_reads_and_no_more(running: tuple[Case, Pod]) -> None:
    """It gets the access token; it can neither change nor replace the file; no other secret is in its sight."""
    case, pod = running

    seen = pod.run_app(case.app, SCRIPT, Mount(pod.tokens, TOKENS, read_only=True))

    assert seen == {"kinds": ["at"], "may": ["read"]}
    found = (pod.tokens / "gmail.json").stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert found.st_gid == (case.sidecar.gid if case.fs_group is None else case.fs_group)
    assert {leak.what for leak in leaks.in_folder(pod.tokens)} == {"an access token"}


def test_the_state_directory_keeps_its_secrets_on_a_volume_open_to_all(running: tuple[Case, Pod]) -> None:
    """A volume that belongs to root, with mode 0777, is fit; and whoever gets a view of it reads no secret."""
    case, pod = running
    mode = pod.state.stat().st_mode
    assert (pod.state.stat().st_uid, stat.S_IMODE(mode) & 0o777) == (0, 0o777)
    assert "a refresh token" in {leak.what for leak in leaks.in_folder(pod.state)}

    other = User(3000, 3000, () if case.fs_group is None else (case.fs_group,))
    seen = pod.run_app(other, SCRIPT, Mount(pod.state, "/run/token-sidecar"))

    assert seen["kinds"] == []
    assert exposed(pod.state) <= {"http.json", "instance", "started"}


def test_who_is_neither_the_user_nor_in_the_group_reads_nothing(
    make_pod: MakePod, make_simulator: MakeSimulator
) -> None:
    """The default mode is 0640: without a shared group or user, an application is locked out, and `mode` opens it."""
    pod = make_pod()
    rotated(pod, NONROOT, make_simulator)
    stranger, view = User(1000, 1000), Mount(pod.tokens, TOKENS, read_only=True)
    assert pod.run_app(stranger, SCRIPT, view) == {"kinds": [], "may": []}

    open_to_all = make_pod()
    rotated(
        open_to_all,
        NONROOT,
        make_simulator,
        outputs=[{"file": "/run/tokens/gmail.json", "format": "gmail-sdk", "mode": "0644"}],
    )
    view = Mount(open_to_all.tokens, TOKENS, read_only=True)
    assert open_to_all.run_app(stranger, SCRIPT, view) == {"kinds": ["at"], "may": ["read"]}


def test_an_application_that_shall_write_is_told_so(make_pod: MakePod, make_simulator: MakeSimulator) -> None:
    """`mode: "0660"` and a mount that isn't read-only let it write into the file; the directory alone would not."""
    case = CASES["a fixed user and a shared group"]
    pod = make_pod(fs_group=case.fs_group)
    rotated(
        pod,
        case.sidecar,
        make_simulator,
        outputs=[{"file": "/run/tokens/gmail.json", "format": "gmail-sdk", "mode": "0660"}],
    )
    writable = pod.run_app(case.app, SCRIPT, Mount(pod.tokens, TOKENS))
    assert "write" in writable["may"]
    assert "chmod" not in writable["may"]


def exposed(folder: Path) -> set[str]:
    """Name the files that others than their owner may read or write."""
    return {
        path.name
        for path in folder.rglob("*")
        if not path.is_dir() and path.lstat().st_mode & 0o077 and not path.is_symlink()
    }
