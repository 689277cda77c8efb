from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import yaml

from sidecar import cli, config
from sidecar.errors import ConfigError
from sidecar.observers import metrics
from sidecar.stores import migration

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / "helm").glob("*/README.md")),
]
TUTORIAL = DOCS / "tutorial" / "first-token.md"
PATIENCE = 120
"""Seconds for all of a page; half a minute on a machine that does nothing else."""
REAUTH = DOCS / "howto" / "reauth-every-seven-days.md"
TESTING = DOCS / "howto" / "test-your-app.md"

TEST = re.compile(r"^(async )?def test_", re.MULTILINE)
FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
PROGRAM = re.compile(r"(?:^|[\s`(/])token-sidecar (?=-{0,2}[a-z])")
"""As it is called; not `-c token-sidecar --`, where it is a container, nor a sentence that begins with it."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __repr__(self) -> str:
        return f"{named(self.page)}:{self.line}"


def named(page: Path) -> str:
    """Name a page as people do."""
    return str(page.relative_to(ROOT))


def blocks(*languages: str, pages: list[Path] | None = None) -> list[Block]:
    """Find the fenced blocks of some languages."""
    found = []
    for page in PAGES if pages is None else pages:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            indent, language, content = match.groups()
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, language, re.sub(f"^{indent}", "", content, flags=re.MULTILINE)))
    return [block for block in found if block.language in languages]


def read(place: Path) -> str:
    """Return a file's text; that of a directory is empty."""
    return place.read_text(encoding="utf-8") if place.is_file() else ""


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as renderers make them."""
    slugs: list[str] = []
    for title in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        before = slugs.count(slug)
        slugs.append(slug)
        if before:
            slugs.append(f"{slug}-{before}")
    return set(slugs)


def configurations() -> Iterator[tuple[str, str]]:
    """Find the whole configurations: YAML with `tokens` at the top, or a chart's values with `config`."""
    for block in blocks("yaml"):
        document = yaml.safe_load(block.text) if "{{" not in block.text else None
        if isinstance(document, dict) and "tokens" in document:
            yield repr(block), block.text
        elif isinstance(document, dict) and "config" in (document.get("token-sidecar") or {}):
            yield repr(block), yaml.safe_dump(document["token-sidecar"]["config"])


def calls() -> Iterator[tuple[str, list[str]]]:
    """Find every call of the program: where, and its arguments."""
    for page in PAGES:
        spans = re.findall(r"`(token-sidecar [^`]+)`", prose(page))
        yield from ((named(page), arguments(span)) for span in spans)
    for block in blocks("sh", "console", "ini"):
        yield from ((repr(block), arguments(line)) for line in lines(block) if PROGRAM.search(line))


def lines(block: Block) -> list[str]:
    """Return a block's lines, those that a backslash continues joined; of a session only what is typed."""
    joined = block.text.replace("\\\n", " ").splitlines()
    return [line for line in joined if line[:2] in {"$ ", "# "}] if block.language == "console" else joined


def arguments(line: str) -> list[str]:
    """Return what follows the program's name, up to the end of that command."""
    begin = PROGRAM.search(line)
    words = shlex.split(line[begin.end() :], comments=True) if begin else []
    ends = (i for i, word in enumerate(words) if word in {"|", "||", "&&", "&", ">", "<", "2>", "2>>", ";"})
    return [word.rstrip(";)") for word in words[: next(ends, len(words))]]


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """Find the command that some arguments name, and what is left of them."""
    command: click.Command = cli.root
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            raise click.UsageError(f"there is no command {words[0]!r}")
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    """A relative link names a file that is there, and an anchor a heading in it."""
    broken = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert not broken


def test_every_page_can_be_reached() -> None:
    """docs/index.md leads to every page below docs/."""
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in LINK.findall(prose(DOCS / "index.md"))}

    assert {named(page) for page in PAGES if DOCS in page.parents} - {"docs/index.md"} <= {
        named(page) for page in linked
    }


def test_there_are_configurations() -> None:
    """The search finds them: no test passes for want of anything to look at."""
    assert len(list(configurations())) >= 10


def test_every_configuration_is_valid(tmp_path: Path) -> None:
    """Whatever the documentation shows as a whole configuration has no mistake in it."""
    file = tmp_path / "config.yaml"
    mistakes = []
    for place, text in configurations():
        file.write_text(text, encoding="utf-8")
        variables = dict.fromkeys(re.findall(r"\$\{(\w+)", text), "value")
        try:
            config.load(file, env={"RUNTIME_DIRECTORY": "/run/token-sidecar", **variables}, disk=False)
        except ConfigError as error:
            mistakes.append((place, error.problems))

    assert not mistakes


def test_every_metric_exists() -> None:
    """No page names a metric that the daemon doesn't have."""
    exist = {definition.family for definition in metrics.DEFINITIONS.values()}
    # A database has no dashes in its names either.
    others = {"token_sidecar_", *re.findall(r"token_sidecar_[a-z_]+", migration("postgresql://me@db/t"))}
    shown = {
        name for page in PAGES for name in re.findall(r"token_sidecar_[a-z_]+", page.read_text("utf-8"))
    } - others

    assert not {name for name in shown if re.sub(r"_(bucket|sum|count)$", "", name) not in exist}


def test_there_are_calls() -> None:
    """The search finds commands in prose and in blocks."""
    found = [words for _, words in calls()]

    assert ["check", "-c", "config.yaml"] in found
    assert ["providers", "show", "google"] in found


def test_every_call_is_possible() -> None:
    """Each command that is shown exists, and so do its options."""
    mistakes = []
    for place, words in calls():
        try:
            command, left = resolve(words)
            # click keeps the help option that it makes first, so that it has to be the one that all commands have.
            context = click.Context(command, **cli.root.context_settings)
            command.make_parser(context).parse_args(left)
        except click.UsageError as error:
            mistakes.append((place, words, error.format_message()))

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
            place for place in places if not [*place.glob("**/test_*.py")] and not TEST.search(read(place))
        ]
        assert not empty, f"{name} names what has no test in it: {empty}"
        if state == "done":
            assert any(place.match(f"scenarios/{name.lower()}_*") for place in places)
            assert "](docs/howto/" in need + told


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """Make an environment in which `token-sidecar` and `python` are these very ones."""
    shims = tmp_path / "bin"
    shims.mkdir()
    for name, call in (("python", ""), ("token-sidecar", " -m sidecar")):
        shim = shims / name
        shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{call} "$@"\n', encoding="utf-8")
        shim.chmod(0o755)
    return {
        **os.environ,
        **dict.fromkeys(("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"), ""),
        "PATH": f"{shims}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
    }


def free_port() -> int:
    """Find a port that nobody has."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def masked(line: str) -> str:
    """Take out of a line what differs from run to run."""
    return re.sub(r"[0-9a-f]{12}|#[#.]*|\d+(?= ?s\b)", "~", " ".join(line.split()))


def output_of(script: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a script with all that it starts; return what was printed."""
    printed = folder / "printed"
    with printed.open("wb") as out:
        process = subprocess.Popen(
            ["/bin/bash", "-c", script],
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        process.wait(PATIENCE)
    finally:
        # Only what a failed run left behind is still there.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return printed.read_text(encoding="utf-8")


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


def test_blocks_are_of_a_known_kind() -> None:
    """Each block says what it is, so that it is looked at by the test for its kind."""
    known = ("yaml", "sh", "console", "text", "python", "json", "ini", "sql")

    assert not [block for block in blocks("") if DOCS in block.page.parents]
    assert not [
        (block, block.language) for page in PAGES for block in other(page, known) if DOCS in page.parents
    ]


def other(page: Path, known: tuple[str, ...]) -> list[Block]:
    """Find blocks of unknown languages."""
    languages = {match.group(2) for match in FENCE.finditer(page.read_text(encoding="utf-8"))}
    return blocks(*(languages - set(known)), pages=[page])
