"""The page docs/reference/events.md, written from sidecar/events.py and from what the log makes of each event."""

from __future__ import annotations

import enum
import inspect
import itertools
import re
import types
from collections.abc import Iterable, Iterator
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from structlog.testing import capture_logs

from sidecar import events
from sidecar.config.schema import docstrings
from sidecar.events import Course, Event, HookView, OutputView, Step, TokenView
from sidecar.observers.log import LogObserver
from sidecar.tokens import GrantState

INTRODUCTION = """\
# Events

<!-- Written from sidecar/events.py and sidecar/observers/log.py by `make reference`. -->

Whatever happens to a token is an event first. The log, the [metrics](metrics.md), the [audit log](audit.md), spans and
[`/status`](http.md) are observers of events and of nothing else, so they can't disagree. No event carries a secret: a
token is named by its fingerprint, the first twelve hex digits of its SHA-256. Times are Unix seconds.

Below each event stands what the log makes of it: the sentence (`event` in JSON), the `level`, and the fields that come
along if they say something; `{reason}` stands for what is in that field. Trouble that stays the same is said once in
ten minutes, with `left_out` for how often it was not said, and in between at `debug`. The log is JSON unless it goes to
a terminal, and each line has its `timestamp` in UTC.

Many events have these:

| Field | Meaning |
|---|---|
"""

COMMON = {
    "token": "The token's name, `NAME` or `SET/ACCOUNT`.",
    "provider": "The name of its profile; `inline` for one without.",
    "store": "The kind of the store.",
    "output": "Where it was published: a path, or the name of what is behind a network.",
    "seed": "Where the seed came from.",
    "hook": "The name of the hook.",
    "lineage": "The random id that begins with each seed or consent.",
    "generation": "How many commits there have been in the lineage.",
    "fingerprint": "Of the token that it is about.",
    "outcome": "What it amounted to.",
    "reason": "Why, in words.",
    "remedy": "What a human can do about it.",
    "problem": "What is wrong with it, in words.",
    "seconds": "How long it took.",
    "required": "Whether health depends on it.",
    "expires_at": "When the access token expires.",
    "never_expires": "Whether it has no end.",
    "place": "What is not as it should be.",
}
"""What is the same wherever it stands."""

VIEWS = (TokenView, OutputView, HookView, Course, Step)
LEVELS = ("error", "warning", "info")
BESIDE = {"event", "log_level", "left_out"}
Structs = type[msgspec.Struct]


def generate() -> str:
    """Write the page, as Markdown."""
    known = [one for one in vars(events).values() if inspect.isclass(one) and issubclass(one, Event)]
    common = [f"| `{name}` | {meaning} |" for name, meaning in COMMON.items()]
    happened = (line for one in known if one is not Event for line in (*_section(one), *_in_the_log(one)))
    views = (line for one in VIEWS for line in _section(one))
    return "\n".join([INTRODUCTION + "\n".join(common), *happened, *views, ""])


def _section(one: Structs) -> Iterator[str]:
    yield from ("", f"## {one.__name__}", "", _words(one.__doc__ or ""), "")
    yield from ("| Field | Type | Meaning |", "|---|---|---|")
    told, kinds = docstrings(events), get_type_hints(one)
    for field in msgspec.structs.fields(one):
        meaning = _words(told.get((one.__name__, field.name)) or COMMON[field.name])
        yield f"| `{field.name}` | {_type(kinds[field.name])} | {_outcomes(meaning) or meaning} |"


def _outcomes(meaning: str) -> str:
    """Write `a | b | c` in a way that doesn't end a table's cell."""
    parts = meaning.removesuffix(".").split(" | ")
    cells = (re.sub(r"^[\w-]+", lambda word: f"`{word[0]}`", part) for part in parts)
    return ", ".join(cells) if len(parts) > 1 else ""


def _words(text: str) -> str:
    return " ".join(inspect.cleandoc(text).split())


def _type(kind: Any) -> str:
    if get_origin(kind) in {Union, types.UnionType}:
        return " or ".join(_type(one) for one in get_args(kind) if one is not type(None)) + ", or none"
    if get_origin(kind) is tuple and get_args(kind)[-1] is not Ellipsis:
        return " and ".join(_type(one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list: {_type(next(one for one in get_args(kind) if one is not Ellipsis))}"
    if issubclass(kind, enum.Enum):
        return _code(one.value for one in kind)
    if issubclass(kind, msgspec.Struct):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    return {str: "text", int: "integer", float: "number", bool: "boolean"}[kind]


class NoClock:
    """The clocks of a day on which nothing but our samples happens."""

    def wall(self) -> float:
        """Return a moment."""
        return 1_800_000_000.0

    def boot(self) -> float:
        """Return the same."""
        return 0.0

    def monotonic(self) -> float:
        """Return the same."""
        return 0.0


def _in_the_log(one: type[Event]) -> Iterator[str]:
    """Say what the log makes of an event, by showing it one of each sort."""
    with capture_logs() as lines:
        observer = LogObserver(NoClock())
        for sample in _samples(one):
            observer.notice(sample)
    # What merely goes on well has no sentence.
    told = [line for line in lines if line["event"] != one.__name__]
    if told:
        yield from ("", "| In the log | Level | Fields |", "|---|---|---|")
    for sentence in dict.fromkeys(line["event"] for line in told):
        same = [line for line in told if line["event"] == sentence]
        found = {line["log_level"] for line in same}
        levels = [level for level in LEVELS if level in found] or ["debug"]
        fields = dict.fromkeys(name for line in same for name in line if name not in BESIDE)
        yield f"| {sentence} | {_code(levels)} | {_code(fields)} |"


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _samples(one: Structs) -> list[Any]:
    """Make one of each sort: text is its field's own name, and what may be this or that is both, trouble first."""
    kinds, told = get_type_hints(one), docstrings(events)
    choices = {
        field.name: list(_choices(field.name, kinds[field.name], told.get((one.__name__, field.name), "")))
        for field in msgspec.structs.fields(one)
    }
    return [one(**dict(zip(choices, values, strict=True))) for values in itertools.product(*choices.values())]


def _choices(name: str, kind: Any, told: str) -> Iterator[Any]:
    outcomes = re.match(r"\w[\w-]*( \([^)]*\))?( \| \w[\w-]*( \([^)]*\))?)+", told)
    if kind is TokenView:
        yield from (_view(state, fresh=fresh) for state in GrantState for fresh in (False, True))
    elif outcomes:
        yield from reversed([re.sub(r" \(.*", "", part) for part in re.split(r" \| ", outcomes[0])])
    elif kind is bool:
        yield from (False, True) if name == "accepted" else (True, False)
    elif get_origin(kind) is tuple:
        pairs = get_origin(get_args(kind)[0]) is tuple
        yield from ((("{account}", f"{{{name}}}"),) * 2 if pairs else (f"{{{name}}}",), ())
    elif kind is str:
        yield from ("{problem}", "") if name == "problem" else (f"{{{name}}}",)
    elif kind is float and name == "seconds":
        yield from (100.0, -100.0, 1.0)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        yield from kind
    else:
        yield 0 if kind in {int, float} else None


def _view(state: GrantState, *, fresh: bool) -> TokenView:
    now = NoClock().wall()
    return TokenView(
        token="{token}",
        provider="{provider}",
        required=True,
        on_dead="restart",
        dead_grace=None,
        grant_state=state,
        reason="{reason}",
        remedy="{remedy}",
        fingerprint="{fingerprint}",
        expires_at=now + (3600 if fresh else -1),
        next_wake=now + 60,
    )
