"""What the pages for people in trouble quote is what the program says."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from sidecar import errors
from tests.docs.pages import DOCS, ROOT
from tests.docs.pages import of as blocks

PAGE = DOCS / "howto" / "troubleshooting.md"
STORES = [DOCS / "howto" / name for name in ("sqlite.md", "kubernetes-secret-store.md")]
EXAMPLE = re.compile(
    r"""https?://\S+[\w]                   # an address
    |\b[\w.-]+@[\w.-]+('s)?                # somebody
    |(file:)?/[\w./-]*\w                   # a path
    |\b\d[\w.:]*\b                         # a number, a fingerprint, an address
    |\b[\w-]+\.(example|yaml|pem)\b        # a host, a file
    |\b(gmail|crm|(old|new)-id|renewer|outputs?|tmpfs|token_sidecar|TOKEN_SIDECAR_CONFIG)('s)?\b  # a name
    |generation|permission\ denied|connection\ refused  # words that are put in, some by the system
    |[`…]""",
    re.VERBOSE,
)


@cache
def told() -> str:
    """Return every text of the program: one a line, with a zero byte for each value that is put in."""
    return "\n".join(
        " ".join(text.split()) for file in (ROOT / "sidecar").rglob("*.py") for text in texts(file)
    )


def texts(file: Path) -> set[str]:
    """Find the literals of a module; docstrings are among them, since those of errors are messages."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
            found.add("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            found.add(re.sub(r"\{\w+\}", "\0", node.value))
    return found


def clauses(line: str) -> list[str]:
    """Take a message apart at the examples in it, and where one text of the program is joined to the next."""
    parts = re.split(r"; |: |\(|\)|, or |, and |\n", EXAMPLE.sub("\n", line))
    return [part.strip(" ,.;:") for part in parts if part.count(" ") and re.search(r"[a-z]{3}", part)]


def invented(line: str) -> list[str]:
    """Return what of a quotation the program never says."""
    return [clause for clause in clauses(line) if clause not in told()]


QUOTED = {
    f"{block!r} {number}": line
    for block in blocks("text", pages=[PAGE])
    for number, line in enumerate(block.text.splitlines())
}


@pytest.mark.parametrize("line", QUOTED.values(), ids=QUOTED)
def test_what_is_quoted_is_said(line: str) -> None:
    """Each quoted message is made of the program's own texts, but for the example's names and numbers."""
    assert clauses(line)
    assert not invented(line)


@pytest.mark.parametrize("page", [PAGE, *STORES], ids=lambda page: page.stem)
def test_what_tables_quote_is_said(page: Path) -> None:
    """So is what stands in the first cell of a table as a quotation, with `…` where something is left out."""
    cells = re.findall(r"^\| `([^`|]*)`", page.read_text(encoding="utf-8"), re.MULTILINE)
    sentences = [cell for cell in cells if clauses(cell) and not cell.startswith("token")]

    assert sentences
    assert not {cell: invented(cell) for cell in sentences if invented(cell)}


def test_a_made_up_message_is_noticed() -> None:
    """The check can fail: nothing in the program says this."""
    assert invented("gmail: the grant has gone fishing (it is Monday); look on the beach") == [
        "the grant has gone fishing",
        "it is Monday",
        "look on the beach",
    ]


def test_exit_codes_are_those_of_the_errors() -> None:
    """The page's table has every code that the program ends with, and no other."""
    section = PAGE.read_text(encoding="utf-8").split("## The daemon ends at its start")[1].split("\n## ")[0]
    codes = {int(code) for code in re.findall(r"^\| (\d) \|", section, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]

    assert codes == {0, *(kind.exit_code for kind in kinds if issubclass(kind, errors.SidecarError))}
