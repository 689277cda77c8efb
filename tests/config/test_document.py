from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.document import MAX_BYTES, parse
from sidecar.config.report import Report


def read(text: str | bytes, **env: str) -> tuple[Any, list[str]]:
    """Parse a document with these variables; return its values and what is wrong with it."""
    report = Report("c.yaml")
    node = parse(text if isinstance(text, bytes) else text.encode(), report, env)
    return None if node is None else node.plain(), report.problems


def test_reads_what_yaml_and_json_share() -> None:
    """Mappings, lists, text, numbers, booleans and null arrive as themselves."""
    text = "a: {b: [1, 2.5, x, yes, ~]}\nc: '1'\n1: one\nno: norway\n"
    assert read(text) == ({"a": {"b": [1, 2.5, "x", True, None]}, "c": "1", "1": "one", "no": "norway"}, [])


@pytest.mark.parametrize("scalar", ["2024-01-01", "10:30", "1:30.5", ".inf", ".nan", "1" * 5000, "=", "0b_"])
def test_leaves_what_yaml_makes_strange_things_of_as_text(scalar: str) -> None:
    """Dates, base-60 numbers, infinities and numbers without end stay what was written."""
    assert read(f"a: {scalar}") == ({"a": scalar}, [])


def test_marks_every_value_and_key() -> None:
    """A node knows the line and column of its key and of its value, and what it is called."""
    report = Report("c.yaml")
    root = parse(b"tokens:\n  gmail:\n    outputs:\n      - mode: 1\n", report, {})
    assert root is not None
    node = root
    for step in ("tokens", "gmail", "outputs", 0, "mode"):
        child = node.get(step)
        assert child is not None
        node = child
    assert (node.mark.line, node.mark.column, node.mark.label) == (4, 15, "tokens.gmail.outputs[0].mode")
    assert (node.key_mark.line, node.key_mark.column) == (4, 9)


def test_expands_variables_in_values_only() -> None:
    """`${NAME}`, defaults and `$$` expand in scalars; keys and single dollar signs stay as they are."""
    text = "${A}: x${A}y\nb: ${B:-two}\nc: $$A${A} $5\nd: ${E:-}\ne: ${EMPTY:-full}\nf: ${EMPTY}"
    values, problems = read(text, A="one", EMPTY="")
    expected = {"${A}": "xoney", "b": "two", "c": "$Aone $5", "d": "", "e": "full", "f": ""}
    assert (values, problems) == (expected, [])


def test_an_expansion_changes_neither_structure_nor_type() -> None:
    """A variable that holds YAML, a number or a boolean arrives as text."""
    values, _ = read("a: ${A}\nb: ${B}\nc: ${C}", A="{x: 1}\ny: 2", B="12", C="no")
    assert values == {"a": "{x: 1}\ny: 2", "b": "12", "c": "no"}


def test_names_every_variable_that_is_not_set() -> None:
    """Each unset variable is an error at its line, and the other values are read."""
    values, problems = read("a: ${A}\nb:\n  - ${B} ${C}\n  - x")
    assert values == {"b": ["x"]}
    assert problems == [
        "c.yaml:1:4: a: the variable A is not set; set it, or write ${A:-default}",
        "c.yaml:3:5: b[0]: the variable B is not set; set it, or write ${B:-default}",
        "c.yaml:3:5: b[0]: the variable C is not set; set it, or write ${C:-default}",
    ]


def test_a_variable_that_is_no_variable_is_an_error() -> None:
    """What begins like a variable and isn't one is not taken as text by accident."""
    assert read("a: ${A-b}")[1] == [
        "c.yaml:1:4: a: `${` begins no variable; write ${NAME} or ${NAME:-default}, or $$ for a dollar sign"
    ]


def test_a_variable_that_is_not_text_is_an_error() -> None:
    """Bytes of the environment that are not UTF-8 can't be in a configuration."""
    assert "holds a character that no text can have" in read("a: ${A}", A="\udcff")[1][0]


def test_a_duplicate_key_is_an_error_that_names_both_places() -> None:
    """A key that is given twice is refused, and its first value is kept for the checks that follow."""
    values, problems = read("a:\n  b: 1\n  b: 2\n")
    assert values == {"a": {"b": 1}}
    assert problems == ["c.yaml:3:3: a.b: is there twice, in line 2 and in line 3; remove one"]


def test_aliases_and_merge_keys_work() -> None:
    """An alias repeats a value, and `<<` takes over what a mapping doesn't have itself."""
    values, problems = read("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {y: 4, <<: [*a, {z: 5}]}\nd: *a")
    assert values == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 4, "z": 5},
        "d": {"x": 1, "y": 2},
    }
    assert problems == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "c.yaml:1:1: the file is empty; `token-sidecar init` writes one to start from"),
        (b"# nothing\n", "c.yaml:1:1: the file is empty; `token-sidecar init` writes one to start from"),
        (b"- a\n", "c.yaml:1:1: the file holds a list where a mapping with the key `tokens` is needed"),
        (b"a", "c.yaml:1:1: the file holds text where a mapping with the key `tokens` is needed"),
        (b"a: 1\n\xff\xfe", "c.yaml:2:1: the file is not UTF-8 text from here on; save it as UTF-8"),
        (b"a: 1\nb: \0", "c.yaml:2:4: the character U+0000 has no place in a text file; remove it"),
        (b"a:\n\tb: 1", "c.yaml:2:1: a tab stands where YAML wants spaces; indent with spaces"),
        (
            b"a: 1\n---\nb: 1\n",
            "c.yaml:2:1: a second YAML document (`---`) begins here; one file holds one configuration",
        ),
        (
            b"a: *sim-cs-0123456789abcdef",
            "c.yaml:1:4: this alias (`*`) names nothing; if it is text, put it in quotes",
        ),
        (
            b"a: !x 1",
            "c.yaml:1:4: a: has a YAML tag (`!\u2026`) that means nothing here; remove it, or quote the text",
        ),
        (
            b"a: !!binary aGk=",
            "c.yaml:1:4: a: has a YAML tag (`!\u2026`) that means nothing here; remove it, or quote the text",
        ),
        (b"a: !e!x 1", "c.yaml:1:4: this is no valid YAML tag (`!`); if it is text, put it in quotes"),
        (b"a: b: c", "c.yaml:1:5: a `key: value` can't stand here; check the indentation, or quote the text"),
        (b"a: @b", "c.yaml:1:4: no value can begin with this character; put the text in quotes"),
        (
            b"a: {b: ${ID}}",
            (
                "c.yaml:1:9: this `{\u2026}` is broken off here; a text in it that has a brace has to be quoted, "
                'as "${NAME}"'
            ),
        ),
        (b"{[a]: 1}", "c.yaml:1:2: a key must be text; if it begins with a brace, quote it"),
        (b"a: {<<: 1}", "c.yaml:1:9: a: `<<` takes over mappings only"),
        (
            b'a: "\\0"',
            "c.yaml:1:4: a: holds a character that no text can have (a zero byte, or half of a pair)",
        ),
        (b"[" * 5000, "c.yaml:1:1: the file is nested too deeply"),
        (b"#" * (MAX_BYTES + 1), "c.yaml:1:1: the file is larger than 16 MiB; is it a configuration?"),
    ],
)
def test_says_in_one_line_why_a_file_cannot_be_read(text: bytes, problem: str) -> None:
    """Whatever is in a file, there is one clear line that says where it went wrong."""
    assert read(text)[1] == [problem]


def test_a_bomb_of_aliases_is_bounded() -> None:
    """A small file that multiplies by its aliases is refused before it fills the memory."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    _, problems = read("\n".join(lines))
    assert len(problems) == 1
    assert problems[0].endswith("is nested deeper than 32 levels or repeats aliases without end")


def test_an_alias_of_itself_is_bounded() -> None:
    """A value that contains itself ends at the depth limit."""
    _, problems = read("a: &a [*a]")
    assert problems == [
        f"c.yaml:1:4: a{'[0]' * 32}: is nested deeper than 32 levels or repeats aliases without end"
    ]


def test_a_syntax_error_never_quotes_what_was_written() -> None:
    """The parser's own messages quote pieces of the file, which may be secrets."""
    secret = "sim-cs-0123456789abcdefgh"
    for text in (
        f"a: *{secret}",
        f"a: !{secret}!x",
        f"a: [{secret}",
        f"a: '{secret}",
        f"{secret}\nb: 1",
        f"a: |{secret}",
    ):
        _, problems = read(text)
        assert len(problems) == 1
        assert secret not in problems[0]
