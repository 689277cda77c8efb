"""What the console's pages say of a deployment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from sidecar.console import pages, views
from sidecar.console.stand import Level
from sidecar.console.words import span
from sidecar.tokens import SEED, GrantState, OutcomeClass, Record, Turn
from tests.console import gallery
from tests.console.gallery import DAY, NOW, record

if TYPE_CHECKING:
    from sidecar.config.settings import Settings


@pytest.fixture(scope="module")
def held() -> dict[str, Record | None]:
    """Give the records of the gallery."""
    return gallery.records()


@pytest.fixture(scope="module")
def everything(settings: Settings, held: dict[str, Record | None]) -> views.Overview:
    """Give the overview of all of them."""
    return views.overview(settings, held, NOW)


def test_every_state_has_its_row(everything: views.Overview) -> None:
    """Whatever a record can tell is told, with the words of the state and who has to do something."""
    rows = {row.name: row for row in everything.rows}
    assert {row.state for row in rows.values()} == gallery.ALL_STATES
    assert {row.name for row in rows.values() if row.level is Level.ACT} == {
        "crm",
        "gmail-westside",
        "warehouse",
    }
    assert rows["calendar"].level is Level.WATCH, "its deadline is near"
    assert rows["billing"].level is Level.FINE
    assert (rows["billing"].consents, rows["warehouse"].consents, rows["calendar"].consents) == (
        False,
        False,
        True,
    )
    assert rows["gmail-westside"].error is not None
    assert "invalid_grant" in rows["gmail-westside"].error.text
    assert "token-sidecar login gmail-westside" in rows["gmail-westside"].error.remedy
    assert rows["quickbooks"].error is None
    assert rows["quickbooks"].past_error is not None
    assert "connection broke" in rows["quickbooks"].past_error.text


def test_what_a_human_has_to_do_comes_first_by_urgency(everything: views.Overview) -> None:
    """First what is broken, the token that ends first before the others; then the deadlines, by their day."""
    assert [one.row.name for one in everything.due] == [
        "crm",
        "warehouse",
        "gmail-westside",
        "calendar",
        "linkedin-ads",
    ]
    assert [one.urgent for one in everything.due] == [True, True, True, True, False]
    assert [row.name for row in everything.rows[:3]] == ["crm", "gmail-westside", "warehouse"]
    assert [row.name for row in everything.ungranted] == ["crm"]


def test_a_deadline_that_every_refresh_moves_is_none_for_a_human(everything: views.Overview) -> None:
    """Google forgets grants that nobody uses for half a year; a daemon uses them every hour."""
    google = next(row for row in everything.rows if row.name == "calendar")
    assert google.deadline is not None
    assert not google.deadline.moves, "the configured seven days come first"
    salesforce = next(row for row in everything.rows if row.name == "quickbooks")
    assert salesforce.deadline is not None
    assert salesforce.deadline.moves


def test_a_deadline_that_passed_needs_a_human(settings: Settings) -> None:
    """Though the provider has not said yet that the grant is gone."""
    view = views.overview(settings, {"calendar": record("calendar", consented=7 * DAY + 60)}, NOW)
    [due] = view.due
    assert (due.row.level, due.row.state, due.urgent) == (Level.ACT, GrantState.OK, True)
    assert due.row.deadline is not None
    assert due.row.deadline.passed


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (views.Asked(q="WEST"), ["gmail-westside"]),
        (views.Asked(q="west.side@"), ["gmail-westside"]),
        (views.Asked(q="linkedin"), ["linkedin-ads"]),
        (views.Asked(q="no such thing"), []),
        (views.Asked(show="act"), ["crm", "gmail-westside", "warehouse"]),
        (views.Asked(show="in_doubt"), ["strava"]),
        (views.Asked(show="act", q="ware"), ["warehouse"]),
        (
            views.Asked(show="due", page=99),
            ["crm", "warehouse", "gmail-westside", "calendar", "linkedin-ads"],
        ),
    ],
)
def test_a_search_finds(
    settings: Settings, held: dict[str, Record | None], asked: views.Asked, found: list[str]
) -> None:
    """By name, account, provider and state; what else is due is left out then."""
    view = views.overview(settings, held, NOW, asked=asked)
    assert [row.name for row in view.rows] == found
    assert not view.due


@pytest.mark.parametrize(
    "query",
    [
        {"page": "-1"},
        {"page": "0"},
        {"page": "1e9"},
        {"page": "9" * 400},
        {"page": "٣"},
        {"show": "<script>"},
        {"q": "\x00" * 9000},
        {},
    ],
)
def test_a_query_that_makes_no_sense_is_harmless(
    settings: Settings, held: dict[str, Record | None], query: dict[str, str]
) -> None:
    """It shows the nearest page that there is."""
    asked = views.asked(query)
    assert len(asked.q) <= views.LONGEST_QUERY
    view = views.overview(settings, held, NOW, asked=asked)
    assert view.pager.page == 1


def test_ten_thousand_accounts_are_paged_on_the_server(settings: Settings) -> None:
    """Each page has its fifty, none is lost between two, and only what is shown is drawn."""
    crowd = gallery.crowd(record("calendar"), 9_990)
    began = time.thread_time()
    first = views.overview(settings, crowd, NOW)
    assert time.thread_time() - began < 5
    assert (first.total, len(first.rows), len(first.due), first.more_due) == (9_990, 50, 8, 9_982)
    assert (first.pager.pages, first.pager.previous, first.pager.next) == (200, "", "/?page=2")
    last = views.overview(settings, crowd, NOW, asked=views.Asked(page=200))
    assert (last.pager.first, last.pager.last, last.pager.next) == (9_951, 9_990, "")
    assert last.rows[-1].name == "mailboxes/user-09989@example.com"
    assert last.rows[-1].page == "/tokens/mailboxes/user-09989%40example.com"
    [found] = views.overview(settings, crowd, NOW, asked=views.Asked(q="user-07777")).rows
    assert found.account == "user-07777@example.com"


def test_the_daemon_has_its_say_until_the_store_moved_on(settings: Settings) -> None:
    """What it alone knows is shown; of a grant that was replaced since, it is not believed."""
    held = record("calendar")
    told = gallery.live(settings, "calendar", held)
    told = replace(told, grant_state=GrantState.UNPERSISTED, reason="the database is away")
    view = views.token(settings, "calendar", held, NOW, live=told)
    assert (view.row.state, view.from_daemon) == (GrantState.UNPERSISTED, True)
    assert [place.badge for place in view.places] == ["current", "failed", "done"]
    newer = replace(held, lineage="f" * 32)
    assert views.token(settings, "calendar", newer, NOW, live=told).row.state is GrantState.OK


def test_a_record_that_cannot_be_read_hides_no_other(
    settings: Settings, held: dict[str, Record | None]
) -> None:
    """It is no missing grant: its reason and what to do are told, and a human is called."""
    damaged = {**held, "calendar": None}
    view = views.overview(
        settings, damaged, NOW, unreadable={"calendar": "its record is damaged; restore it"}
    )
    [row] = [row for row in view.rows if row.name == "calendar"]
    assert (row.level, row.state, len(view.rows)) == (Level.ACT, GrantState.MISCONFIGURED, len(held))
    assert row.error is not None
    assert (row.error.text, row.error.remedy) == ("its record is damaged; restore it", "")
    [due] = [one for one in view.due if one.row.name == "calendar"]
    assert (due.what, due.consent) == ("Look after its record", False)
    assert "calendar" not in [one.name for one in view.ungranted]


def test_the_account_is_who_consented_else_the_member(settings: Settings) -> None:
    """A set's member is called by its account, and what the provider told comes before that."""
    name = "mailboxes/alice@example.com"
    held = record("calendar")
    assert views.token(settings, name, held, NOW).row.account == "alice@example.com"
    told = replace(held, account="alice@work.example")
    assert views.token(settings, name, told, NOW).row.account == "alice@work.example"


def test_a_user_sees_their_own_accounts_in_plain_words(
    settings: Settings, held: dict[str, Record | None]
) -> None:
    """Connected, not connected, or to be connected again; and only what is connected can be disconnected."""
    own = {"crm-users": None, "calendars": held["calendar"], "mailboxes": held["gmail-westside"]}
    shown = views.accounts(settings, "dana@example.com", own, NOW)
    assert [(one.set, one.words, one.connected, one.act) for one in shown.accounts] == [
        ("calendars", "connected", True, "Connect again"),
        ("crm-users", "not connected", False, "Connect"),
        ("mailboxes", "has to be connected again", False, "Connect again"),
    ]


def test_the_history_tells_what_an_entry_is_of(settings: Settings) -> None:
    """Several turns that share an entry are counted, and what was no call says what it was."""
    made = record("calendar", turns=1)
    several = replace(made.history[0], times=12, since=NOW - 90000)
    seed = Turn(NOW - 99999, OutcomeClass.SUCCESS, "from command", 0, 0.0, what=SEED)
    shown = views.token(settings, "calendar", replace(made, history=(seed, several)), NOW)
    past, planted = shown.history
    assert (past.times, past.outcome, past.took) == (12, "success", span(several.duration))
    assert past.since is not None
    assert past.since.words == "1 day 1 h ago"
    assert (planted.outcome, planted.reason, planted.took, planted.since) == (
        "seed",
        "from command",
        "",
        None,
    )
    assert "12 times" in pages.token(gallery.FRAME, shown)
