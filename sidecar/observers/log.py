"""Logs: structlog's set-up, and the observer that turns events into lines.

Events carry no secret, so there is nothing to mask in what this module is handed. The one thing that comes
from elsewhere is an exception: tracebacks are written plainly, without locals, and with the messages of those
exceptions alone of which it is known that they don't quote values.
"""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO, assert_never

import structlog

from sidecar.clock import Clock
from sidecar.config.members import SLASH
from sidecar.errors import ConfigError, SidecarError
from sidecar.events import (
    Adopted,
    CallFinished,
    ClockSkewSeen,
    CommitFinished,
    ConfigLoaded,
    Delivered,
    Discarded,
    Event,
    GrantDied,
    HookRan,
    OutputWritten,
    Rotated,
    ScopesShrank,
    Seeded,
    SeedRefused,
    SetListed,
    TokenForgotten,
    TokenView,
    TurnEnded,
    Warned,
)
from sidecar.tokens import AccessState, GrantState, without_numbers

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, MutableMapping
    from types import TracebackType

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("json", "console")

REPEAT_AFTER = 600.0
"""Seconds after which trouble that stays the same is said again at its own level; in between, at debug."""

SKEW_WORTH_A_WARNING = 30.0
"""Seconds between a provider's clock and ours; expiry is corrected for it anyway."""

_REMEMBERED = 1024
_LIBRARIES_QUIET = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
_SILENT_BELOW = {"httpx2": logging.WARNING, "httpcore2": logging.WARNING}

# Python writes these messages itself, of types and names and never of values.
SHOWN = 10
"""Of many things that are alike, so many are named."""
_VOUCHED = (OSError, TypeError, AttributeError, NameError, ImportError, RuntimeError, BaseExceptionGroup)
_VOUCHED_MODULES = frozenset({"builtins", "ssl", "socket"})

_CONTROL = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "�")


def configure(level: str = "info", style: str | None = None, stream: TextIO | None = None) -> None:
    """Send every log line of the process through one pipeline to `stream` (stderr).

    `style` is `json` or `console`; None: console on a terminal, JSON elsewhere. May be called again, after a
    reload. Libraries are heard from WARNING on whatever our own level is, since their debug lines hold
    headers and bodies. Raises `ConfigError` for a level or a style that doesn't exist.
    """
    if level.lower() not in LEVELS:
        raise ConfigError(f"log.level: {level!r} is not one of {', '.join(LEVELS)}")
    if style is not None and style not in FORMATS:
        raise ConfigError(f"log.format: {style!r} is not one of {', '.join(FORMATS)}")
    out = _Unbreakable(stream or sys.stderr)
    on_terminal = out.isatty()
    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _plain_exception,
    ]
    last: list[structlog.typing.Processor]
    if style == "console" or (style is None and on_terminal):
        last = [
            _without_control_characters,
            structlog.dev.ConsoleRenderer(colors=on_terminal, exception_formatter=_never),
        ]
    else:
        last = [structlog.processors.JSONRenderer(ensure_ascii=False, default=str)]
    structlog.configure(
        processors=[*before, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.WriteLoggerFactory(file=out),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    _route_stdlib(out, before, last)


def _route_stdlib(
    out: _Unbreakable, before: list[structlog.typing.Processor], last: list[structlog.typing.Processor]
) -> None:
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, _first_line_of_asyncio, *before],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in _LIBRARIES_QUIET:
        # A port scanner's rubbish is a warning to uvicorn, and nothing to us.
        logging.getLogger(name).setLevel(logging.ERROR)
    for name, floor in _SILENT_BELOW.items():
        logging.getLogger(name).setLevel(floor)
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False


class _Unbreakable:
    """A stream whose reader may go away: a full disk under a log file must not stop a renewal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except (OSError, ValueError):
            return False


def format_exception(error: BaseException) -> str:
    """Write a traceback that holds no values: no locals, and no message that may quote what it choked on."""
    return "".join(_lines(error, seen=set())).rstrip("\n")


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    cause, context = error.__cause__, error.__context__
    if cause is not None and id(cause) not in seen:
        yield from _lines(cause, seen)
        yield "\nThe above exception was the direct cause of the following exception:\n\n"
    elif cause is None and context is not None and not error.__suppress_context__ and id(context) not in seen:
        yield from _lines(context, seen)
        yield "\nDuring handling of the above exception, another exception occurred:\n\n"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    yield f"{_described(error)}\n"
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            if id(member) not in seen:
                for line in _lines(member, seen):
                    yield "".join(f"  | {part}\n" for part in line.splitlines())


def _described(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    vouched = isinstance(error, SidecarError) or (
        isinstance(error, _VOUCHED) and kind.__module__ in _VOUCHED_MODULES
    )
    if vouched:
        return f"{name}: {error}"
    return f"{name}: (message withheld: it may quote a secret)" if error.args else name


def log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Serve as `sys.excepthook`: an exception that nobody caught is logged like everything else."""
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger("sidecar").error(
        "stopped by an unexpected error; this is a bug in token-sidecar",
        exc_info=error.with_traceback(trace),
    )


def _plain_exception(
    _logger: object, _method: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace `exc_info` by its text before any renderer could format it in its own way."""
    found = event_dict.pop("exc_info", None)
    event_dict.pop("stack_info", None)
    if isinstance(found, tuple):
        found = found[1]
    elif found and not isinstance(found, BaseException):
        found = sys.exc_info()[1]
    if isinstance(found, BaseException):
        event_dict["exception"] = format_exception(found)
    return event_dict


def _first_line_of_asyncio(
    _logger: object, _method: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Keep the sentence alone: the lines below it show the reprs of tasks, with their exceptions."""
    if event_dict.get("logger") == "asyncio":
        event_dict["event"] = str(event_dict["event"]).partition("\n")[0]
    return event_dict


def _without_control_characters(
    _logger: object, _method: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Keep what comes from outside from steering a terminal; JSON escapes it anyway."""
    return {
        key: value.translate(_CONTROL) if isinstance(value, str) else value
        for key, value in event_dict.items()
    }


def _never(_out: TextIO, _exc_info: object) -> None:
    """Stand where structlog's own traceback printer would: `_plain_exception` has done it already."""


class LogObserver:
    """Turns events into log lines: one sentence for each turn that did something.

    Info is success; warning is trouble that passes by itself or is somebody's to look at; error is a grant
    that is dead, misconfigured, in doubt or unpersisted, or an access token that readers can't use any more.
    Trouble that stays the same (same token, state and reason, numbers aside) is said at once, then every ten
    minutes with a count of what was left out; in between its lines are at debug. So are turns that did
    nothing, unless the turn before met the same trouble: a token that waits for its seed has to be heard of,
    though nothing is ever done to it.
    """

    def __init__(self, clock: Clock) -> None:
        """Have said nothing yet."""
        self._clock = clock
        self._said: dict[Hashable, _Said] = {}
        self._seen: dict[str, object] = {}
        self._log = structlog.get_logger("sidecar")

    def notice(self, event: Event) -> None:  # noqa: C901, PLR0912, PLR0915 - one case for each event
        """Write the line for one event."""
        match event:
            case TurnEnded():
                self._turn(event)
            case TokenForgotten():
                self._forget(event.token)
                gone = "the account is gone" if SLASH in event.token else "the token left the configuration"
                self._write("info", gone, token=event.token)
            case CallFinished():
                self._write("debug", f"the provider was called: {event.outcome}", **_fields(event))
            case Rotated():
                self._write("debug", "the provider gave out a new token", **_fields(event))
            case Seeded():
                self._write("info", "a new lineage was started from a seed", **_fields(event))
            case SeedRefused():
                self._trouble("warning", ("seed", event.token, event.seed), "a seed cannot be used", event)
            case Adopted():
                self._write("info", "an application's own refresh was adopted", **_fields(event))
            case GrantDied():
                self._write("error", "the grant is dead: a human has to consent again", **_fields(event))
            case Discarded():
                self._write("warning", "what was kept of a dead grant was deleted", **_fields(event))
            case CommitFinished():
                key = ("commit", event.token, event.store)
                if event.outcome == "committed":
                    self._over(key, "commits to the store succeed again", event)
                else:
                    self._trouble("warning", key, f"a commit to the store ended: {event.outcome}", event)
            case OutputWritten():
                key = ("output", event.token, event.output)
                if event.outcome == "failed":
                    self._trouble("warning", key, "an output could not be written", event)
                else:
                    self._over(key, "the output can be written again", event)
            case HookRan():
                key = ("hook", event.token, event.hook)
                if event.outcome == "failed":
                    self._trouble("warning", key, "a hook could not be run", event)
                else:
                    self._over(key, "the hook can be run again", event)
            case Delivered():
                level = "info" if event.noteworthy else "debug"
                self._write(level, event.sentence, token=event.token)
            case ScopesShrank():
                self._write("warning", "the access token lacks scopes", **_fields(event))
            case ClockSkewSeen():
                self._skew(event)
            case ConfigLoaded():
                self._config(event)
            case SetListed():
                self._set(event)
            case Warned():
                self._trouble("warning", ("warned", event.token, event.place), event.reason, event)
            case _:
                self._write("debug", type(event).__name__)

    def _turn(self, event: TurnEnded) -> None:
        view, now = event.view, self._clock.wall()
        key = ("turn", view.token)
        level = _level(view, now)
        fields = _of_view(view, now)
        if level == "info":
            self._said.pop(key, None)
            self._seen.pop(view.token, None)
            self._write("info" if event.noteworthy else "debug", event.sentence, **fields)
            return
        signature = (view.grant_state, view.access_state(now), without_numbers(view.reason))
        lasting = self._seen.get(view.token) == signature
        self._seen[view.token] = signature
        if not event.noteworthy and not lasting:
            self._write("debug", event.sentence, **fields)
            return
        loud, left_out = self._admit(key, signature)
        if left_out:
            fields["left_out"] = left_out
        self._write(level if loud else "debug", event.sentence, **fields)

    def _set(self, event: SetListed) -> None:
        key = ("set", event.of)
        if event.problem:
            loud, _ = self._admit(key, without_numbers(event.problem))
            self._write("warning" if loud else "debug", event.problem, set=event.of, members=event.members)
        elif self._said.pop(key, None) is not None:
            self._write("info", "it is known again who the accounts are", set=event.of, members=event.members)
        if not event.refused:
            self._said.pop(("refused", event.of), None)
        elif self._admit(("refused", event.of), event.refused)[0]:
            shown = [reason for _, reason in event.refused[:SHOWN]]
            sentence = f"{len(event.refused)} accounts can't be served"
            self._write("warning", sentence, set=event.of, reasons=shown)

    def _skew(self, event: ClockSkewSeen) -> None:
        key = ("skew", event.provider)
        if abs(event.seconds) < SKEW_WORTH_A_WARNING:
            self._said.pop(key, None)
            self._write("debug", "the provider told its clock", **_fields(event))
        else:
            way = "ahead of" if event.seconds > 0 else "behind"
            loud, _ = self._admit(key, way)
            sentence = f"the provider's clock is {abs(event.seconds):.0f} s {way} ours; is NTP running here?"
            self._write("warning" if loud else "debug", sentence, **_fields(event))

    def _config(self, event: ConfigLoaded) -> None:
        if event.accepted:
            self._said.pop("config", None)
            sentence = "the configuration was loaded" if event.changed else "the configuration did not change"
            self._write("info" if event.changed else "debug", sentence, changed=list(event.changed))
            return
        loud, _ = self._admit("config", event.problems)
        sentence = "the new configuration was refused; the old one stays in force"
        self._write("error" if loud else "debug", sentence, problems=list(event.problems))

    def _trouble(self, level: str, key: Hashable, sentence: str, event: Event) -> None:
        fields = _fields(event)
        loud, left_out = self._admit(key, without_numbers(f"{sentence} {fields.get('reason', '')}"))
        if left_out:
            fields["left_out"] = left_out
        self._write(level if loud else "debug", sentence, **fields)

    def _over(self, key: Hashable, sentence: str, event: Event) -> None:
        """Say once that trouble is over; what merely goes on well is told by the turn's own sentence."""
        if self._said.pop(key, None) is not None:
            self._write("info", sentence, **_fields(event))
        else:
            self._write("debug", type(event).__name__, **_fields(event))

    def _admit(self, key: Hashable, signature: object) -> tuple[bool, int]:
        """Tell whether to say it aloud, and how many lines were left out since it was last said."""
        now = self._clock.monotonic()
        said = self._said.get(key)
        if said is not None and said.signature == signature and now - said.at < REPEAT_AFTER:
            said.left_out += 1
            return False, 0
        if said is None and len(self._said) >= _REMEMBERED:
            del self._said[next(iter(self._said))]
        left_out = said.left_out if said is not None and said.signature == signature else 0
        self._said[key] = _Said(signature, now)
        return True, left_out

    def _forget(self, token: str) -> None:
        self._seen.pop(token, None)
        for key in [key for key in self._said if isinstance(key, tuple) and key[1] == token]:
            del self._said[key]

    def _write(self, level: str, sentence: str, /, **fields: Any) -> None:
        self._log.log(logging.getLevelNamesMapping()[level.upper()], sentence, **fields)


class _Said:
    """Trouble that was said, and what has been left out since."""

    __slots__ = ("at", "left_out", "signature")

    def __init__(self, signature: object, at: float) -> None:
        self.signature = signature
        self.at = at
        self.left_out = 0


def _level(view: TokenView, now: float) -> str:
    match view.grant_state:
        case GrantState.OK:
            return "error" if view.access_state(now) is AccessState.EXPIRED else "info"
        case GrantState.RETRYING | GrantState.UNSEEDED:
            return "error" if view.access_state(now) is AccessState.EXPIRED else "warning"
        case GrantState.IN_DOUBT | GrantState.UNPERSISTED | GrantState.MISCONFIGURED | GrantState.DEAD:
            return "error"
        case _:
            assert_never(view.grant_state)


def _of_view(view: TokenView, now: float) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "token": view.token,
        "grant": view.grant_state.value,
        "access": view.access_state(now).value,
        "generation": view.generation,
    }
    if view.fingerprint:
        fields["fingerprint"] = view.fingerprint
    if view.expires_at is not None:
        fields["expires_at"] = _iso(view.expires_at)
    if view.next_wake is not None:
        fields["next_wake"] = _iso(view.next_wake)
    if view.grant_state is not GrantState.OK:
        fields |= {name: text for name in ("reason", "remedy") if (text := getattr(view, name))}
    return fields


def _fields(event: Event) -> dict[str, Any]:
    """All fields of an event that say something, as they are."""
    return {
        name: value
        for name in event.__struct_fields__
        if (value := getattr(event, name)) not in ("", (), None)
    }


def _iso(seconds: float) -> str:
    """Write a time as RFC 3339 in UTC; as a number where no calendar reaches."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, OSError, ValueError):
        return str(seconds)
