"""`status`: how every token is doing, from the daemon or else from the store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli import common
from sidecar.cli.options import TokenName, config_option, examples, json_option

if TYPE_CHECKING:
    from sidecar.events import TokenView

BAR = 10
"""Characters."""

BY_ITSELF = {"idle", "living"}
"""Those deadlines that every refresh puts off, so that nobody has to do anything while a daemon runs."""

BY_ITSELF = {"idle", "living"}
"""Those that every refresh puts off, so that nobody has to do anything while a daemon runs."""

FAILING = {"misconfigured", "unpersisted"}


@click.command(
    epilog=examples(
        ("token-sidecar status", "all tokens"),
        ("token-sidecar status gmail", "one of them"),
        ("token-sidecar status gmail/alice@example.com", "one account of a set"),
        ("token-sidecar status --json | jq '.tokens.gmail.seconds_left'", "for scripts"),
    )
)
@click.argument("name", type=TokenName(), metavar="[NAME]", required=False)
@config_option
@json_option
def status(name: str | None, config: Path, *, as_json: bool) -> int:
    """Show how every token is doing.

    The running daemon is asked; where none runs, the store and the outputs are read, and that is said.
    Of a set, the accounts that have metrics of their own are shown, and those in trouble.

    Exit code 3 says that a required grant is dead or not seeded, 4 that a required token can't be used
    right now, 1 that something else is wrong with a required token or with the daemon itself.
    """
    from sidecar.server.client import NotRunning

    settings = common.load(config, token=name)
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
        click.echo("no daemon answers; this is what the store and the outputs say", err=True)
    rows = [_row(token) for token in document["tokens"].values()]
    others = {of: one["others"] for of, one in document.get("sets", {}).items()}
    rows += [_row_of_others(of, told) for of, told in others.items() if told["count"]]
    common.show_table(["TOKEN", "ACCESS", "LEFT", "GENERATION", "GRANT", "CONSENT", "OUTPUTS"], rows)
    for line in _remarks(document):
        click.echo(line)


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
