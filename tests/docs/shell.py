"""What is typed: every command of a block, looked up.

Our own commands are parsed by their own parsers. Of others programs.yaml has what the pages use: a command that isn't
there is either a slip, or new and gets its line.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache

import click
import yaml

from sidecar import cli
from sidecar.testing.__main__ import _parser as simulator
from tests.docs import documents
from tests.docs.pages import ROOT, Block

_TABLES = yaml.safe_load((ROOT / "tests" / "docs" / "programs.yaml").read_text(encoding="utf-8"))
PLAIN, LEADING = _TABLES["plain"].split(), _TABLES["leading"].split()
OTHERS: dict[str, dict[str, str]] = _TABLES["others"]

HEREDOC = re.compile(
    r"^(?P<before>[^\n]*)<<-?\s*(?P<quote>['\"]?)(?P<end>\w+)(?P=quote)(?P<rest>[^\n]*\n)(?P<text>.*?)^(?P=end)$",
    re.MULTILINE | re.DOTALL,
)
FUNCTION = re.compile(r"^\s*(\w+)\(\)", re.MULTILINE)
COMMENT = re.compile(r"(^|\s)#[^\n]*$", re.MULTILINE)


def typed(block: Block) -> str:
    """Return what is typed: of a session the lines behind a prompt."""
    if block.language != "console":
        return block.text
    lines = block.text.replace("\\\n", "\\\0").splitlines()
    return "".join(line[2:].replace("\0", "\n") + "\n" for line in lines if line[:2] in {"$ ", "# "})


def mistakes(blocks: list[Block]) -> Iterator[tuple[Block, str]]:
    """Say what can't be typed as it stands there."""
    for block in blocks:
        script, page = typed(block), "".join(one.text for one in blocks if one.page == block.page)
        checked = subprocess.run(
            ["/bin/bash", "-n"], input=script, capture_output=True, text=True, check=False
        )
        if not script:
            yield block, "nothing is typed: no line begins with a prompt, `$ ` or `# `"
        elif checked.returncode:
            yield block, checked.stderr.strip()
        else:
            yield from ((block, mistake) for mistake in _mistakes(script, FUNCTION.findall(page)))


def _mistakes(script: str, functions: list[str]) -> Iterator[str]:
    for found in HEREDOC.finditer(script):
        if re.search(r"\.yaml\b", found["rest"] + found["before"]):
            yield from documents.judge(found["text"])
    for words in commands(script):
        if words[0] not in functions:
            yield from judge(words)


def commands(script: str) -> Iterator[list[str]]:
    """Split a script into its simple commands, those of `$(…)` too."""
    plain = COMMENT.sub(r"\1", HEREDOC.sub(r"\g<before>\g<rest>", script).replace("\\\n", " "))
    lexer = shlex.shlex(plain, posix=True, punctuation_chars=";&|()<>\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    to_file = False
    for word in [*lexer, "\n"]:
        if not set(word) <= set(";&|()<>\n"):
            if not to_file:
                words.append(word)
                yield from (one for inner in re.findall(r"\$\(([^()]*)\)", word) for one in commands(inner))
            to_file = False
        elif set(word) & set("<>") and "(" not in word:
            to_file = True
            # What a number before it names is a descriptor.
            del words[len(words) - (bool(words) and words[-1].isdigit()) :]
        else:
            yield from _command(words)
            words = []


def _command(words: list[str]) -> Iterator[list[str]]:
    while words and (words[0] in LEADING or re.match(r"\w+=", words[0]) or words[0] in {"$", ""}):
        words = words[1:]
    if words and words[0] not in {"for", "case", "in"} and not words[0].startswith("$"):
        yield words


def judge(words: list[str]) -> Iterator[str]:
    """Say what is wrong with one command."""
    program, arguments = words[0].rpartition("/")[2], words[1:]
    if program == "token-sidecar":
        yield from ours(arguments)
    elif program in {"python", "python3"}:
        yield from _python(arguments)
    elif program == "make":
        yield from _make(arguments)
    elif program not in PLAIN:
        yield from _others(program, arguments)


def ours(arguments: list[str], *, whole: bool = True) -> Iterator[str]:
    """Say what our own parser has against some arguments; a sentence may name a command without the `whole` of it."""
    said = f"token-sidecar {shlex.join(arguments)}"
    try:
        command, left = resolve(arguments)
        # click keeps the help option that it makes first, so that it has to be the one that all commands have.
        context = click.Context(command, **cli.root.context_settings)
        given, unknown, _ = command.make_parser(context).parse_args(left)
    except click.UsageError as error:
        yield f"{said}: {error.format_message()}"
        return
    lacking = [
        one.make_metavar(context)
        for one in command.params
        if isinstance(one, click.Argument) and one.required and one.value_is_missing(given[one.name or ""])
    ]
    if unknown:
        yield f"{said}: what is {shlex.join(unknown)}?"
    if whole and lacking and "--help" not in arguments:
        yield f"{said}: no {' '.join(lacking)}"


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """Find the command that some arguments name, and what is left of them."""
    command: click.Command = cli.root
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            raise click.UsageError(f"there is no command {words[0]!r}")
        command, words = found, words[1:]
    return command, words


def _python(arguments: list[str]) -> Iterator[str]:
    match arguments:
        case ["-m", "sidecar.testing", *options]:
            try:
                simulator().parse_args(options)
            except SystemExit:
                yield f"the simulator doesn't take {shlex.join(options)}"
        case ["-m", "sidecar", *options]:
            yield from ours(options)
        case ["-m", "venv" | "pytest", *_]:
            pass
        case ["-m", module, *_] if _is_here(module):
            pass
        case ["-c", code, *_]:
            compile(code, "<python -c>", "exec")
        case [script, *_] if script.endswith(".py"):
            pass
        case _:
            yield f"what is python {shlex.join(arguments)}?"


def _is_here(module: str) -> bool:
    place = ROOT / module.replace(".", "/")
    return place.with_suffix(".py").exists() or (place / "__main__.py").exists()


@cache
def _targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def _make(arguments: list[str]) -> Iterator[str]:
    """Targets have to be there, and so do the variables that are set."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in arguments:
        name, given, _ = word.partition("=")
        if given and name.lower() not in makefile.lower():
            yield f"no target takes {name}"
        elif not given and word not in _targets():
            yield f"there is no target {word}"


def _others(program: str, arguments: list[str]) -> Iterator[str]:
    named = (name for name in OTHERS if name.split() == [program, *arguments][: len(name.split())])
    group = next(named, program)
    own, inner = _parted(program, arguments[len(group.split()) - 1 :])
    yield from judge(inner) if inner else ()
    known = {kind: set(words.split()) for kind, words in OTHERS.get(group, {}).items()}
    options = {word.partition("=")[0] for word in own if re.match(r"--?\w", word)}
    if group not in OTHERS:
        yield f"tests/docs/programs.yaml doesn't have {program}"
    elif strange := options - known.get("options", set()):
        yield f"tests/docs/programs.yaml doesn't have {group} {' '.join(sorted(strange))}"
    elif "subcommands" in known and not known["subcommands"] & set(own):
        yield f"tests/docs/programs.yaml has no subcommand of {group} {shlex.join(own)}"


def _parted(program: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Part a program's own arguments from the command that it is to run somewhere else."""
    for number, word in enumerate(arguments):
        if word == "--":
            return arguments[:number], arguments[number + 1 :]
        if word == "token-sidecar" and program == "ssh":
            return arguments[:number], arguments[number:]
    return arguments, []
