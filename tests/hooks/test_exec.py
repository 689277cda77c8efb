"""Running a program: what it gets to know, and what becomes of it."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest

from sidecar.errors import HookError
from tests.hooks.conftest import OUTPUTS, MakeHook, occasion

PATIENCE = 20.0
_Found = TypeVar("_Found")
NOBODY = 65534
PR_SET_CHILD_SUBREAPER = 36
LOOK = """
import json, os, sys
here = {
    "argv": sys.argv[2:], "env": dict(os.environ), "cwd": os.getcwd(), "uid": os.getuid(), "groups": os.getgroups(),
    "fds": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1], "leads": os.getpid() == os.getsid(0),
}
print("sim-at-printed-by-a-program", flush=True)
with open(sys.argv[1], "w") as file:
    json.dump(here, file)
"""


def program(script: str, *arguments: object) -> dict[str, Any]:
    """Write a hook that runs this script."""
    return {"argv": [sys.executable, "-I", "-c", script, *map(str, arguments)]}


def alive(pid: int) -> bool:
    """Tell whether a process is there, be it as a zombie."""
    return Path(f"/proc/{pid}").exists()


def state(pid: int) -> str:
    """Return the letter that says what a process does; `Z` is a zombie."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def content(path: Path) -> str:
    """Return what is in a file, if it is there."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


async def until(condition: Callable[[], _Found]) -> _Found:
    """Wait for something to be so."""
    with anyio.fail_after(PATIENCE):
        while not (found := condition()):  # noqa: ASYNC110 - another process makes it so
            await anyio.sleep(0.01)
    return found


async def test_it_knows_names_and_nothing_else(
    make_hook: MakeHook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No variable and no descriptor of ours reaches it, no shell reads its arguments, and its output goes nowhere."""
    monkeypatch.setenv("DATABASE_PASSWORD", "hidden")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003 - as it is called
        assert await make_hook(exec=program(LOOK, tmp_path / "seen", "$HOME *")).run(occasion(3))

    seen = json.loads((tmp_path / "seen").read_text(encoding="utf-8"))
    env = seen.pop("env")
    env.pop("LC_CTYPE", None)  # Python's own, when it starts
    assert env == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "TOKEN_SIDECAR_TOKEN": "gmail",
        "TOKEN_SIDECAR_LINEAGE": "one",
        "TOKEN_SIDECAR_GENERATION": "3",
        "TOKEN_SIDECAR_OUTPUTS": "\n".join(OUTPUTS),
    }
    assert (seen["argv"], seen["cwd"], seen["fds"], seen["leads"]) == (["$HOME *"], "/", [0, 1, 2], True)
    assert "sim-at" not in "".join(capfd.readouterr())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run something as somebody else")
@pytest.mark.parametrize("user", [NOBODY, "nobody", 64123])
async def test_it_runs_as_somebody_else(make_hook: MakeHook, tmp_path: Path, user: int | str) -> None:
    """A name or a number, known to this system or not; and none of our groups come along."""
    report = tmp_path / "seen"
    report.touch()
    for folder in (report, *report.parents):
        if folder.owner() == "root" and folder.is_relative_to(tmp_path.parents[2]):
            folder.chmod(0o777)
    script = f"import os; open({str(report)!r}, 'w').write(f'{{os.getuid()}} {{os.getgroups()}}')"

    await make_hook(exec={"argv": ["/usr/bin/python3", "-I", "-c", script], "user": user}).run(occasion())

    uid, _, groups = report.read_text(encoding="utf-8").partition(" ")
    assert int(uid) == (NOBODY if user == "nobody" else user)
    assert 0 not in json.loads(groups)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ({"argv": ["/nowhere/program"]}, "it can't be started: there is no such program"),
        ({"argv": ["/etc/passwd"]}, "it can't be started: permission denied; chmod +x it"),
        ({"argv": ["/bin/true"], "user": "nobody-of-that-name"}, "there is no such user; correct `user`"),
        ({"argv": ["/bin/false"]}, "exec:/bin/false: it ended with exit code 1; run it by hand"),
        (program("import os; os.kill(os.getpid(), 9)"), "it was ended by SIGKILL"),
    ],
)
async def test_a_failure_is_told(make_hook: MakeHook, command: dict[str, Any], told: str) -> None:
    """What can't be started, what ends with another code than 0, and what is killed."""
    with pytest.raises(HookError) as caught:
        await make_hook(exec=command).run(occasion())
    assert told in str(caught.value)


async def test_what_takes_too_long_is_ended_with_all_that_it_started(
    make_hook: MakeHook, tmp_path: Path
) -> None:
    """Its children too, though they ignore SIGTERM; and none of them stays a zombie, as the first process of a pod."""
    # Only a subreaper, which a container's first process is as well, inherits orphans.
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    script = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        "if child: open(sys.argv[1], 'w').write(f'{os.getpid()} {child}')\n"
        "time.sleep(600)\n"
    )
    try:
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(make_hook(exec=program(script, tmp_path / "pids")).run, occasion())
            pids = [int(pid) for pid in (await until(partial(content, tmp_path / "pids"))).split()]
            tasks.cancel_scope.cancel()
        assert time.monotonic() - began < PATIENCE
        assert [pid for pid in pids if alive(pid)] == []
    finally:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


async def test_what_it_leaves_running_is_left_alone_and_taken_leave_of(
    make_hook: MakeHook, tmp_path: Path
) -> None:
    """A program may start something that stays; should that end later as our orphan, it is no zombie for long."""
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    script = (
        "import os, sys, time\n"
        "if os.fork(): os._exit(0)\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "while os.path.exists(sys.argv[1]): time.sleep(0.02)\n"
    )
    hook = make_hook(exec=program(script, tmp_path / "pid"))
    try:
        await hook.run(occasion(1))
        pid = int(await until(partial(content, tmp_path / "pid")))
        assert alive(pid)
        (tmp_path / "pid").unlink()
        await until(lambda: state(pid) == "Z")
        # The next occasion starts another one, which ends at once.
        await hook.run(occasion(2))
        assert not alive(pid)
    finally:
        (tmp_path / "pid").unlink(missing_ok=True)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
