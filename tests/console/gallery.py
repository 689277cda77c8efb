"""A deployment to look at: every state that a token can be in, at one moment, and the console's pages of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from sidecar import config
from sidecar.config.settings import Settings
from sidecar.console import pages, views
from sidecar.events import HookView, OutputView, TokenView
from sidecar.standing import Troubles, remedy, standing, with_record
from sidecar.tokens import (
    AccessToken,
    Attempt,
    Backoff,
    Death,
    GrantState,
    OutcomeClass,
    Record,
    RefreshToken,
    Turn,
)

NOW = 1795234567.0
"""2026-11-21 04:16:07 UTC."""
DAY = 86400.0
GMAIL = "https://www.googleapis.com/auth/gmail."
FRAME = pages.Frame("dana@example.com", operator=True, csrf="proof", sign_out=True, enrolment=True)

_CLIENT = "client: {id: 412-web.apps.example, secret: sim-cs-of-the-gallery-0}"
CONFIGURATION = f"""
state_dir: STATE
tokens:
  gmail-westside: {{provider: google, {_CLIENT}, refresh_token_ttl: 7d, scopes: [{GMAIL}send, {GMAIL}readonly]}}
  calendar: {{provider: google, {_CLIENT}, refresh_token_ttl: 7d}}
  quickbooks: {{provider: intuit, {_CLIENT}}}
  salesforce: {{provider: salesforce, {_CLIENT}}}
  strava: {{provider: strava, {_CLIENT}}}
  linkedin-ads: {{provider: linkedin, {_CLIENT}, refresh_token_ttl: 365d}}
  crm: {{provider: {{issuer: "https://sso.corp.example"}}, {_CLIENT}}}
  warehouse: {{provider: {{title: Warehouse, token_url: "https://id.warehouse.example/token"}}, {_CLIENT}}}
  billing:
    provider: {{title: Billing, token_url: "https://id.billing.example/token", grant: client_credentials}}
    {_CLIENT}
  mailboxes: {{provider: google, {_CLIENT}, refresh_token_ttl: 7d, for_each: {{enrolment: true}}}}
  calendars: {{provider: google, {_CLIENT}, refresh_token_ttl: 7d, for_each: {{enrolment: true}}}}
  crm-users: {{provider: {{issuer: "https://sso.corp.example"}}, {_CLIENT}, for_each: {{enrolment: true}}}}
"""


def settings(folder: Path) -> Settings:
    """Write the configuration, and load it."""
    path = folder / "config.yaml"
    path.write_text(CONFIGURATION.replace("STATE", str(folder / "state")), encoding="utf-8")
    return config.load(path).settings


def record(
    name: str, *, left: float = 2400.0, consented: float = 30 * DAY, turns: int = 32, failed: Any = None
) -> Record:
    """Make the record of a grant that was consented to so many seconds ago; `failed`: turn → outcome and reason."""
    refresh = RefreshToken(f"sim-rt-gallery-{name}", NOW - consented, consented_at=NOW - consented)
    issued = NOW - 3600 + left
    access = AccessToken(f"sim-at-gallery-{name}", issued, issued + 3600, 3600.0, scope=f"{GMAIL}send openid")
    made = Record(
        lineage=f"{sum(name.encode()):032x}",
        generation=turns,
        access=access,
        refresh=refresh,
        client_id="412-web.apps.example",
        endpoint="https://id.example",
    )
    for turn in range(turns):
        outcome, reason = (failed or {}).get(turn, (OutcomeClass.SUCCESS, ""))
        took = 0.16 + (turn * 7919 % 31) / 100
        made = made.remember(Turn(issued - (turns - 1 - turn) * 2650, outcome, reason, turn + 1, took))
    return made


def dead(alive: Record, reason: str, *, ago: float) -> Record:
    """End a grant."""
    assert alive.refresh is not None
    verdict = Death(alive.refresh.fingerprint, alive.client_id, alive.endpoint, NOW - ago, reason)
    turn = Turn(NOW - ago, OutcomeClass.DEAD, reason, alive.generation, 0.21)
    return replace(alive.remember(turn), dead=verdict)


def records() -> dict[str, Record | None]:
    """Make one token for each state."""
    away = (OutcomeClass.TRANSIENT, "HTTP 503 Service Unavailable")
    lost = (OutcomeClass.IN_DOUBT, "the connection broke after the request was sent")
    trying = Backoff(OutcomeClass.TRANSIENT, away[1], 4, NOW + 20, NOW - 700)
    refused = Backoff(OutcomeClass.MISCONFIGURED, "HTTP 401 invalid_client", 2, NOW + 60, NOW - 9000)
    gmail = record("gmail", left=520, consented=7 * DAY - 100)
    doubted = record("strava", left=900, failed={31: lost})
    attempt = Attempt("1", "other", "f", NOW - 300, in_doubt_since=NOW - 290)
    return {
        "gmail-westside": replace(
            dead(gmail, "HTTP 400 invalid_grant: Token has been expired or revoked.", ago=500),
            account="west.side@example.com",
        ),
        "calendar": replace(record("calendar", consented=6.3 * DAY), account="ops@example.com"),
        "quickbooks": record("quickbooks", left=1500, failed={24: away, 25: away, 28: lost}),
        "salesforce": replace(
            record("salesforce", left=300, failed={30: away, 31: away}), backoff=trying, generation=30
        ),
        "strava": replace(doubted, attempt=attempt, backoff=Backoff(*lost, 1, NOW + 60, NOW - 290)),
        "linkedin-ads": record("linkedin", left=3100, consented=211 * DAY),
        "crm": None,
        "warehouse": replace(record("warehouse", left=-7200, turns=9), backoff=refused),
        "billing": replace(record("billing", left=3300, consented=1), refresh=None),
    }


def live(of: Settings, name: str, held: Record | None) -> TokenView:
    """Write what a running daemon would say of a token."""
    profile = of.profiles[name]
    state, reason = standing(held, Troubles(), needs_refresh_token=profile.needs_refresh_token, now=NOW)
    bare = TokenView(
        token=name,
        provider=of.provider_names[name],
        required=True,
        on_dead="restart",
        dead_grace=None,
        grant_state=state,
        reason=reason,
        remedy=remedy(name, state),
        min_validity=600.0,
        next_wake=NOW + 140,
    )
    view = with_record(bare, held, profile, ttl=of.tokens[name].refresh_token_ttl, scopes=())
    outputs = (
        OutputView(
            "file:/run/tokens/gmail-westsidebasketball.json", required=True, fingerprint=view.fingerprint
        ),
        OutputView(
            "secret:pal-e-mail/gmail-oauth/token.json",
            required=False,
            problem="forbidden: it may not be patched",
        ),
    )
    return replace(
        view, outputs=outputs, hooks=(HookView("rollout_restart:pal-e-mail/deployment/pal-e-mail"),)
    )


def with_members(held: dict[str, Record | None]) -> dict[str, Record | None]:
    """Add a few accounts of a set."""
    own = {
        name: record(name, left=2000 + 90 * len(name), consented=3 * DAY)
        for name in ("ana", "björn", "chloé")
    }
    return {**held, **{f"mailboxes/{name}@example.com": one for name, one in own.items()}}


def crowd(of: Record, count: int) -> dict[str, Record | None]:
    """Make a set's members, all alike."""
    return {f"mailboxes/user-{number:05}@example.com": of for number in range(count)}


def written(of: Settings) -> Iterator[tuple[str, str]]:
    """Write every page that there is; gives a name and the HTML."""
    held = records()
    yield "overview", pages.overview(FRAME, views.overview(of, with_members(held), NOW))
    gmail = held["gmail-westside"]
    spoken = live(of, "gmail-westside", gmail)
    yield "token", pages.token(FRAME, views.token(of, "gmail-westside", gmail, NOW, live=spoken))
    yield "no-grant", pages.token(FRAME, views.token(of, "crm", None, NOW))
    searched = views.Asked(q="nobody")
    yield "nothing-found", pages.overview(FRAME, views.overview(of, held, NOW, asked=searched))
    calendar = held["calendar"]
    assert calendar is not None
    many = {**held, **crowd(calendar, 120)}
    yield "second-page", pages.overview(FRAME, views.overview(of, many, NOW, asked=views.Asked(page=2)))
    own = {"calendars": calendar, "mailboxes": gmail, "crm-users": None}
    user = pages.Frame("dana@example.com", operator=False, csrf="proof", enrolment=True)
    yield "accounts", pages.accounts(user, views.accounts(of, "dana@example.com", own, NOW))
    url = "https://accounts.google.example/o/oauth2/v2/auth?response_type=code&state=signed"
    yield "leading", pages.leading(FRAME, token="gmail-westside", provider="Google", url=url)
    for action, worked, text in (
        ("consent", True, "gmail-westside has a new grant; every daemon finds it within seconds"),
        ("refresh", False, "gmail-westside: Google answered HTTP 503; nothing was changed, try again"),
    ):
        view = views.Result(
            action, "gmail-westside", done=True, worked=worked, text=text, back="/tokens/gmail"
        )
        yield f"{action}-{'worked' if worked else 'failed'}", pages.result(FRAME, view)
    yield "message", pages.message("Nothing here", "There is no such page.")
    yield "sign-in", pages.sign_in()


ALL_STATES = frozenset(GrantState) - {GrantState.UNPERSISTED}
"""What a record can tell; that a store takes nothing is the daemon's to say."""
