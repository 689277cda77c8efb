"""The check that fails the run when a secret got out, which is worth as much as its own tests."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import leaks

# Put together here, so that no file of the tests holds one as a whole.
SECRETS = {kind: f"sim-{kind.decode()}-" + "Zx9_" * 5 for kind in leaks.KINDS}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize(
    "around",
    ["{}", '"token": "{}", more', "b'{}'", "grant_type=refresh_token&refresh_token={}&x=y", "Bearer {}\\n"],
)
def test_a_secret_is_found(kind: bytes, around: str) -> None:
    """Each kind is found wherever it stands in a line, and told by place and kind alone."""
    text = f"harmless\n{around.format(SECRETS[kind])}\n"
    (leak,) = leaks.in_bytes(text.encode(), "a.log")
    assert leak == leaks.Leak("a.log", 2, leaks.KINDS[kind])
    assert SECRETS[kind] not in str(leak)


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("before", ["", "sim-client:"])
def test_a_secret_in_base64_is_found(encode: Callable[[bytes], bytes], before: str) -> None:
    """So does an Authorization header give away the client's secret."""
    header = encode(f"{before}{SECRETS[b'cs']}".encode())
    (leak,) = leaks.in_bytes(b"Authorization: Basic " + header, "a.log")
    assert leak.what == "a client secret in Base64"


def test_what_is_no_secret_is_left_alone() -> None:
    """Fingerprints, the names of kinds, and the beginning alone say nothing."""
    text = "fingerprint 0123456789ab, sim-rt-, sim-client, lineage 0123456789abcdef0123456789abcdef"
    assert list(leaks.in_bytes(text.encode(), "a.log")) == []


def test_folders_are_searched_in_depth(tmp_path: Path) -> None:
    """Every file counts, of whatever name; the line is told."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "clean.log").write_text("nothing\n", encoding="ascii")
    (tmp_path / "deep" / "daemon.metrics").write_text(f"x 1\n\n{SECRETS[b'at']}\n", encoding="ascii")
    assert list(leaks.in_folder(tmp_path)) == [
        leaks.Leak(str(tmp_path / "deep" / "daemon.metrics"), 3, "an access token")
    ]


@pytest.mark.parametrize(("kind", "found"), [(4, True), (2, False)])
def test_core_files_are_found_by_what_they_are(tmp_path: Path, kind: int, *, found: bool) -> None:
    """The system names them as it likes; programs are no core files."""
    path = tmp_path / "python3.4711"
    path.write_bytes(leaks.ELF + bytes(12) + struct.pack("<H", kind) + bytes(100))
    assert leaks.cores(tmp_path) == ([path] if found else [])
    assert [leak.what for leak in leaks.in_folder(tmp_path)] == (["a core file"] if found else [])


INNER = """
def test_it(tmp_path_factory):
    secret = "sim-rt-" + "Zx9_" * 5
    log = tmp_path_factory.mktemp("run-logs") / "daemon-1.log"
    log.write_text("fine\\n" + {written} + "\\n")
    print({printed})
"""


@pytest.mark.parametrize("parallel", [[], ["-n", "1"]], ids=["alone", "parallel"])
@pytest.mark.parametrize(
    ("written", "printed", "told"),
    [
        ("secret", "'fine'", "daemon-1.log:2: a refresh token"),
        ("'fine'", "secret", "test_inner.py::test_it (Captured stdout call):1: a refresh token"),
        ("'fine'", "'fine'", None),
    ],
    ids=["in a log", "printed", "nowhere"],
)
def test_a_run_that_leaks_is_red(
    tmp_path: Path, parallel: list[str], written: str, printed: str, told: str | None
) -> None:
    """A green run with a secret in a log or in captured output ends with 1 and names the place, not the secret."""
    inner = INNER.replace("{written}", written).replace("{printed}", printed)
    (tmp_path / "test_inner.py").write_text(inner, encoding="ascii")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="ascii")
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_configure\n", encoding="ascii")
    command = [sys.executable, "-m", "pytest", *parallel, "--basetemp", str(tmp_path / "base")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == (0 if told is None else 1), done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert (told or "no secret in 1 logs and pages") in done.stdout
    assert "Zx9_" not in done.stdout
