from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sidecar.observers import metrics
from sidecar.stores import migration
from tests.docs import shell as commands
from tests.docs.following import PATIENCE, free_port, masked, output_of
from tests.docs.pages import DOCS, PAGES, ROOT, named, prose, read
from tests.docs.pages import of as blocks
from tests.docs.prometheus import rules

TUTORIAL = DOCS / "tutorial" / "first-token.md"
REAUTH = DOCS / "howto" / "reauth-every-seven-days.md"
TESTING = DOCS / "howto" / "test-your-app.md"

TEST = re.compile(r"^(async )?def test_", re.MULTILINE)


def text_of(place: Path) -> str:
    """Return a file's text; that of a directory is empty."""
    return place.read_text(encoding="utf-8") if place.is_file() else ""


def test_every_metric_exists() -> None:
    """No page names a metric that the daemon doesn't have."""
    exist = {definition.family for definition in metrics.DEFINITIONS.values()}
    # A database has no dashes in its names either.
    others = {"token_sidecar_", *re.findall(r"token_sidecar_[a-z_]+", migration("postgresql://me@db/t"))}
    shown = {
        name for page in PAGES for name in re.findall(r"token_sidecar_[a-z_]+", page.read_text("utf-8"))
    } - others

    assert not {name for name in shown if re.sub(r"_(bucket|sum|count)$", "", name) not in exist}


def test_every_alert_exists() -> None:
    """No page names an alert that the chart doesn't have."""
    told = {
        (named(page), name) for page in PAGES for name in re.findall(r"\bTokenSidecar[A-Z]\w+", read(page))
    }

    assert told
    assert not [(page, name) for page, name in told if name not in rules()]


def test_every_command_in_a_sentence_is_possible() -> None:
    """Each command that a sentence names exists, and so do its options."""
    spans = [(page, span) for page in PAGES for span in re.findall(r"`(token-sidecar [^`]+)`", prose(page))]
    mistakes = [
        (named(page), mistake)
        for page, span in spans
        for mistake in commands.ours(next(commands.commands(span))[1:], whole=False)
    ]

    assert spans
    assert not mistakes


def test_tests_that_are_named_exist() -> None:
    """The feature table and the explanations point at tests that are there."""
    named_tests = {
        name for page in PAGES for name in re.findall(r"`(tests/[\w/.-]+)`", page.read_text(encoding="utf-8"))
    }

    assert named_tests
    assert not {name for name in named_tests if not (ROOT / name).exists()}


def test_what_is_done_names_its_test() -> None:
    """A scenario is called done or partly done only with tests that drive it, and done only with a page to follow."""
    rows = re.findall(
        r"^\| (S[1-7]) \| ([^|]*) \| ((\w+)[^|]*) \| (.*)\|$",
        (ROOT / "README.md").read_text("utf-8"),
        re.MULTILINE,
    )

    assert [row[0] for row in rows] == [f"S{number}" for number in range(1, 8)]
    for name, need, told, state, tests in rows:
        assert (state == "planned") == ("tests/" not in tests)
        places = [ROOT / place for place in re.findall(r"`(tests/[\w/.-]+)`", tests)]
        empty = [
            place for place in places if not [*place.glob("**/test_*.py")] and not TEST.search(text_of(place))
        ]
        assert not empty, f"{name} names what has no test in it: {empty}"
        if state == "done":
            assert any(place.match(f"scenarios/{name.lower()}_*") for place in places)
            assert "](docs/howto/" in need + told


@pytest.mark.timeout(PATIENCE + 30)
@pytest.mark.parametrize("page", [TUTORIAL, REAUTH], ids=named)
def test_pages_that_are_followed_do_what_they_say(page: Path, shell: dict[str, str]) -> None:
    """A page's commands are run one after the other, and what it shows is what they print."""
    script = "\n".join(block.text for block in blocks("sh", pages=[page]))
    # Another simulator and another daemon may be running here, and the disk may be a container's own.
    script = script.replace("8321", str(free_port()))
    script = script.replace(
        "state_dir: state", "state_dir: state\nserver: {port: 0}\nallow_volatile_store: true"
    )

    # A short path, because that of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        printed = output_of(script, Path(folder), shell)

    first = min(block.line for block in blocks("sh", pages=[page]))
    told = {masked(line) for line in printed.splitlines()}
    shown = {
        masked(line)
        for block in blocks("text", pages=[page])
        for line in block.text.splitlines()
        if block.line > first
    }
    missing = {line for line in shown if not any(line in one for one in told)}
    assert shown
    assert not missing, printed


def test_the_examples_for_other_peoples_tests_pass(shell: dict[str, str], tmp_path: Path) -> None:
    """What test-your-app.md shows are tests that pass."""
    examples = blocks("python", pages=[TESTING])
    for number, block in enumerate(examples):
        (tmp_path / f"test_{number}.py").write_text(block.text, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        env=shell,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )

    assert "3 passed" in done.stdout, done.stdout
    assert len(examples) == 2


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_pages_keep_private_things_private(page: Path) -> None:
    """No page names the machine that it was written on."""
    text = page.read_text(encoding="utf-8")

    assert not re.findall(r"/root/|/home/\w+/|/tmp/\w", text)
