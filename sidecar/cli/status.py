"""`status`: how every token is doing, from the daemon or else from the store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli import common
from sidecar.cli.options import TokenName, config_option, examples, json_option

if TYPE_CHECKING:
    from sidecar.config import Settings
    from sidecar.events import TokenView
    from sidecar.tokens import Turn

BAR = 10
"""Characters."""

BY_ITSELF = {"idle", "living"}
"""Those deadlines that every refresh puts off, so that nobody has to do anything while a daemon runs."""

FAILING = {"misconfigured", "unpersisted"}


@click.command(
    epilog=examples(
        ("token-sidecar status", "all tokens"),
        ("token-sidecar status gmail", "one of them"),
        ("token-sidecar status gmail/alice@example.com", "one account of a set"),
        ("token-sidecar status --history gmail", "what happened last night"),
        ("token-sidecar status --json | jq '.tokens.gmail.seconds_left'", "for scripts"),
    )
)
@click.argument("name", type=TokenName(), metavar="[NAME]", required=False)
@click.option("--history", is_flag=True, help="Show the last 32 turns of each token instead, newest last.")
@config_option
@json_option
def status(name: str | None, config: Path, *, history: bool, as_json: bool) -> int:
    """Show how every token is doing.

    The running daemon is asked; where none runs, the store and the outputs are read, and that is said.
    Of a set, the accounts that have metrics of their own are shown, and those in trouble.

    With --history: when each token was refreshed, or was to be, and what came of it, from its record in the
    store. The exit code is 0 then.

    Exit code 3 says that a required grant is dead or not seeded, 4 that a required token can't be used
    right now, 1 that something else is wrong with a required token or with the daemon itself.
    """
    from sidecar.server.client import NotRunning

    settings = common.load(config, token=name)
    if history:
        _show_history(settings, name or "", as_json=as_json)
        return 0
    try:
        document = {"source": "daemon", **common.control(settings).status(name or "")}
    except NotRunning as absence:
        from sidecar.cli import stored

        document = {"source": "store", "note": str(absence), **stored.document(settings)}
    if name is not None:
        document["tokens"] = {one: shown for one, shown in document["tokens"].items() if one == name}
        document["sets"] = {}
    if as_json:
        common.print_json(document)
    else:
        _show(document)
    return _verdict(document)


def _verdict(document: dict[str, Any]) -> int:
    """Choose the exit code."""
    from sidecar.server import health

    views = [view for view in views_of(document) if view.required]
    now = time.time()
    if any(view.grant_state in {"dead", "unseeded"} for view in views):
        return 3
    unusable = [health.readyz_token(views, view.token, now=now) for view in views]
    if any(verdict is not None and not verdict.ok for verdict in unusable):
        return 4
    refused = not document.get("config", {}).get("accepted", True)
    hung = any(beat["stale"] for beat in document.get("heartbeats", {}).values())
    return int(refused or hung or any(view.grant_state in FAILING for view in views))


def views_of(document: dict[str, Any]) -> list[TokenView]:
    """Read the tokens of a status document."""
    import msgspec

    from sidecar.events import TokenView

    return [msgspec.convert(token, TokenView) for token in document["tokens"].values()]


def _show(document: dict[str, Any]) -> None:
    if document["source"] == "store":
        _tell_of_absence("the store and the outputs say")
    rows = [_row(token) for token in document["tokens"].values()]
    others = {of: one["others"] for of, one in document.get("sets", {}).items()}
    rows += [_row_of_others(of, told) for of, told in others.items() if told["count"]]
    common.show_table(["TOKEN", "ACCESS", "LEFT", "GENERATION", "GRANT", "CONSENT", "OUTPUTS"], rows)
    for line in _remarks(document):
        click.echo(line)


def _tell_of_absence(who: str) -> None:
    click.echo(f"no daemon answers; this is what {who}", err=True)


def _show_history(settings: Settings, name: str, *, as_json: bool) -> None:
    from sidecar.server.client import NotRunning

    try:
        source, found = "daemon", common.control(settings).history(name)
    except NotRunning:
        from sidecar.cli import stored

        source, found = "store", stored.history(settings, name)
    if as_json:
        common.print_json({"source": source, "now": time.time(), "history": found})
        return
    if source == "store":
        _tell_of_absence("the store says")
    for one, turns in found.items():
        click.echo(f"{one}:" if turns else f"{one}: nothing has happened yet")
        for turn in _folded(turns):
            click.echo(f"  {_moment(turn.at)}  {_sentence(turn)}")


def _folded(turns: list[dict[str, Any]]) -> list[Turn]:
    """Make one of neighbouring failures that are alike."""
    import msgspec

    from sidecar.tokens import OutcomeClass, Turn

    folded: list[Turn] = []
    for turn in msgspec.convert(turns, list[Turn]):
        if folded and turn.outcome is not OutcomeClass.SUCCESS and folded[-1].is_like(turn):
            folded[-1] = folded[-1].joined(turn)
        else:
            folded.append(turn)
    return folded


def _sentence(turn: Turn) -> str:
    """Say what one turn came to; what is not known of it is left out."""
    from sidecar.tokens import REFRESH, OutcomeClass

    took = f" in {turn.duration:.2g} s" if turn.duration else ""
    if turn.what != REFRESH:
        told = turn.what
    elif turn.outcome is OutcomeClass.SUCCESS:
        told = f"refreshed to generation {turn.generation}{took}"
    else:
        told = f"refresh failed ({turn.outcome.value}){took}"
    if turn.times > 1:
        told += f", {turn.times} times since {_moment(turn.began)}"
    names = (
        ("access token", turn.fingerprint),
        ("refresh token", turn.refresh_fingerprint),
        ("by", turn.instance),
    )
    return "; ".join(
        [f"{told}: {turn.reason}" if turn.reason else told, *(f"{what} {it}" for what, it in names if it)]
    )


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))


def _row(token: dict[str, Any]) -> list[str]:
    return [
        token["token"],
        token["access_state"],
        _left(token),
        str(token["generation"]),
        token["grant_state"],
        _consent(token),
        _outputs(token),
    ]


def _row_of_others(of: str, others: dict[str, Any]) -> list[str]:
    """Show in one line those accounts of a set that are not told of one by one."""
    left = others["seconds_left"]
    return [
        f"{of}/*",
        _several(others["access_state"]),
        "-" if left is None else f"{common.span(left)} or more",
        "-",
        _several(others["grant_state"]),
        "-",
        f"of {others['count']} more",
    ]


def _several(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "-"


def _left(token: dict[str, Any]) -> str:
    if not token["fingerprint"]:
        return "-"
    left = token["seconds_left"]
    if left is None:
        return "never expires" if token["never_expires"] else "unknown"
    words = common.span(left) if left > 0 else f"expired {common.span(-left)} ago"
    born, dies = token["last_success"], token["expires_at"]
    if not born or dies <= born:
        return words
    filled = round(BAR * min(1.0, max(0.0, left / (dies - born))))
    full, empty = ("█", "░") if common.on_terminal() else ("#", ".")
    return f"{full * filled}{empty * (BAR - filled)} {words}"


def _consent(token: dict[str, Any]) -> str:
    """Tell how long the last consent still lasts, and how often there has to be one."""
    at, life = token["refresh_expires_at"], token.get("refresh_life")
    if at is None or token["refresh_expiry_rule"] in BY_ITSELF:
        return "-"
    left = at - time.time()
    lasts = f"{common.span(left)} left" if left > 0 else "overdue"
    return f"{lasts} of {common.span(life)}" if life else lasts


def _outputs(token: dict[str, Any]) -> str:
    outputs = token["outputs"]
    if not outputs:
        return "none"
    current = sum(
        1 for output in outputs if output["fingerprint"] and output["fingerprint"] == token["fingerprint"]
    )
    return f"{current} of {len(outputs)} current"


def deadline(at: float, rule: str) -> str:
    """Say by when a human has to consent again, and what that follows from."""
    from sidecar.standing import DEADLINES
    from sidecar.tokens import DeadlineRule

    left, moment = at - time.time(), time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
    when = f"by {moment}, in {common.span(left)}" if left > 0 else f"since {moment}"
    return f"a human must consent again {when}{DEADLINES[DeadlineRule(rule)]}"


def _remarks(document: dict[str, Any]) -> list[str]:
    """Say in a line each what is not as it should be, and what to do about it."""
    lines = []
    for view, token in zip(views_of(document), document["tokens"].values(), strict=True):
        if view.reason:
            lines.append(f"{view.token}: {view.reason}" + (f"; {view.remedy}" if view.remedy else ""))
        lines += [
            f"{view.token}: {output['output']}: {output['problem']}"
            for output in token["outputs"]
            if output["problem"]
        ]
        lines += [f"{view.token}: {hook.problem}" for hook in view.hooks if hook.problem]
        if view.refresh_expires_at is not None and view.refresh_expiry_rule is not None:
            lines.append(f"{view.token}: {deadline(view.refresh_expires_at, view.refresh_expiry_rule)}")
        if view.missing_scopes:
            lines.append(
                f"{view.token}: the access token lacks scopes that were asked for, or granted before: "
                f"{' '.join(view.missing_scopes)}"
            )
    for of, one in document.get("sets", {}).items():
        lines += [f"{of}: {one['problem']}"] if one["problem"] else []
        lines += [f"{of}: {reason}" for reason in one["refused"].values()]
        lines += [
            f"{name}: {told['reason']}" + (f"; {told['remedy']}" if told["remedy"] else "")
            for name, told in one["others"]["troubled"].items()
        ]
    configuration = document.get("config", {})
    if not configuration.get("accepted", True):
        lines.append("the configuration was changed, and refused; the old one is in force:")
        lines += [f"  {problem}" for problem in configuration["problems"]]
    lines += [
        f"worker {worker}: no heartbeat for {common.span(beat['age'])}"
        for worker, beat in document.get("heartbeats", {}).items()
        if beat["stale"]
    ]
    return lines
