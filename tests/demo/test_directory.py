"""The demo's directory: what is in it, what is left alone, where its state_dir goes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from sidecar import config
from sidecar.cli.demo.cast import cast
from sidecar.cli.demo.directory import TOKENS, Directory
from sidecar.errors import UsageError

TOKEN_URL = "http://127.0.0.1:1/token"


@pytest.mark.parametrize("name", ["demo", "a b ${HOME} 'c", "x" * 120])
def test_its_configuration_is_right(tmp_path: Path, name: str) -> None:
    """What is written loads without a mistake, wherever the directory is, and publishes what the reader reads."""
    with Directory(tmp_path / name) as directory:
        settings = config.load(
            directory.write_config(TOKEN_URL, cast(None, 15).settings), disk=False
        ).settings
        published = {
            token: tuple(output.file for output in found.outputs) for token, found in settings.tokens.items()
        }
        assert published == {
            token: tuple(directory / file for file in files) for token, files in TOKENS.items()
        }
        assert settings.state_dir == directory.state_dir


def test_it_is_private(tmp_path: Path) -> None:
    """Nobody else may look into it, even if it was there before."""
    (tmp_path / "demo").mkdir(mode=0o755)
    with Directory(tmp_path / "demo"):
        assert stat.S_IMODE((tmp_path / "demo").stat().st_mode) == 0o700


def test_a_stranger_s_directory_is_left_alone(tmp_path: Path) -> None:
    """A directory in which no demo ran, and which isn't empty, is refused and not changed."""
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(UsageError, match="other files than a demo's"), Directory(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_only_its_own_leftovers_are_removed(tmp_path: Path) -> None:
    """The next demo starts afresh, and what somebody else put beside its files stays."""
    with Directory(tmp_path / "demo") as directory:
        for name in (
            "store.db",
            "store.db-journal",
            "seed.json",
            "tokens/gmail.json",
            "tokens/.gmail.json.x.tmp",
        ):
            (directory / name).write_text("old")
        (directory / "state").mkdir()
        for name in ("notes", "tokens/mine"):
            (directory / name).write_text("mine")
    with Directory(tmp_path / "demo") as directory:
        left = {str(path.relative_to(directory.path)) for path in directory.path.rglob("*")}
        assert left == {".gitignore", ".token-sidecar-demo", "notes", "tokens", "tokens/mine"}


def test_two_demos_don_t_share_it(tmp_path: Path) -> None:
    """The second one is refused, with the way out."""
    with (
        Directory(tmp_path / "demo"),
        pytest.raises(UsageError, match=r"running in .* already; .*--directory"),
        Directory(tmp_path / "demo"),
    ):
        pass


def test_a_long_path_moves_the_state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the control socket's path would be too long, state_dir is a temporary directory, removed at the end."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Directory(tmp_path / ("x" * 120)) as directory:
        assert directory.is_state_elsewhere
        moved = directory.state_dir
        assert moved.parent == tmp_path
    assert not moved.exists()


def test_a_moved_state_dir_of_a_killed_demo_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place is remembered in the directory, for nobody is left to remove it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Directory(tmp_path / ("x" * 120)) as directory:
        marker = (directory / ".token-sidecar-demo").read_bytes()
        left = directory.state_dir
    left.mkdir()
    (directory / ".token-sidecar-demo").write_bytes(marker)
    with Directory(tmp_path / ("x" * 120)):
        assert not left.exists()
