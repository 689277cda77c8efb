"""What people do with the console, over HTTP."""

from __future__ import annotations

import io
import os
import threading
from typing import Any

import anyio
import pytest

from sidecar import deputy
from sidecar.console import agent, results
from sidecar.enrol.code import Authorization
from sidecar.errors import StoreError, TemporarilyUnavailable
from sidecar.testing import faults
from sidecar.testing.config import new_secret
from tests.console.conftest import OPERATOR, PATIENCE, PUBLIC, Browser, World, query_of, running


def test_a_consent_is_stored_and_shown(world: World) -> None:
    """Two clicks and a consent make a token's first grant, and its page shows it."""
    token, browser = world.new_token(), Browser(world.local).sign_in()
    assert "no refresh token yet" in browser.get(f"/tokens/{token}").text

    page = browser.consent(token)

    assert page.status == 200
    assert "starts anew from this consent" in page.text
    done = world.local.last_audited("consent")
    assert (done.outcome, done.token, done.origin) == ("done", token, "127.0.0.1")
    assert len(done.fingerprint) == 12
    assert "no refresh token yet" not in browser.get(f"/tokens/{token}").text


def test_a_consent_asks_for_what_all_readers_need(world: World) -> None:
    """One consent asks for the token's scopes and for those of every output."""
    asked = query_of(world.operator().begin(world.new_token()))

    assert asked["scope"] == "mail.read mail.send"
    assert asked["redirect_uri"] == "https://tokens.example.test/callback/corp"
    assert asked["code_challenge_method"] == "S256"


def test_a_consent_starts_a_lineage_of_its_own(world: World) -> None:
    """Whoever consents again replaces the grant that was there, and the audit log has both by name."""
    token, browser = world.new_token(), world.operator()
    browser.consent(token)
    first = world.proxied.last_audited("consent")

    browser.consent(token)

    second = world.proxied.last_audited("consent")
    assert (first.who, second.who) == (OPERATOR, OPERATOR)
    assert first.fingerprint != second.fingerprint


def test_two_people_at_once_are_both_told_the_truth(world: World) -> None:
    """Of two who consent to the same token at once, one's grant is in force, and the other is told so."""
    token, one, other = (
        world.new_token(),
        world.operator(),
        Browser(world.proxied, "b@example.test", "token-operators"),
    )
    first, second = one.back(one.begin(token)), other.back(other.begin(token))

    won, lost = one.finish(first), other.finish(second)

    assert "starts anew from this consent" in won.text
    assert "was given another consent while this one was under way" in lost.text
    assert [event.outcome for event in world.proxied.audited[-2:]] == ["done", "aside"]


def test_a_store_that_is_away_for_a_moment_costs_no_consent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consent is held on to while the store doesn't take it, and stored when it does."""
    token, browser, plant = world.new_token(), world.operator(), deputy.Deputy.seed
    failures = iter([StoreError("the disk is full"), StoreError("the disk is full")])

    async def failing(*arguments: Any) -> Any:
        for failure in failures:
            raise failure
        return await plant(*arguments)

    answer = browser.back(browser.begin(token))
    monkeypatch.setattr(deputy.Deputy, "seed", failing)
    monkeypatch.setattr(results, "HELD", 0.0)
    reply = browser.get(answer)
    waiting = browser.get(reply.location)
    monkeypatch.setattr(results, "HELD", 20.0)
    page = browser.get(reply.location)

    assert 'http-equiv="refresh"' in waiting.text
    assert "starts anew from this consent" in page.text


def test_a_store_that_stays_away_is_a_visible_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consent that could not be stored is told as a failure, with the reason, on the page and in the audit log."""
    browser = world.operator()

    async def failing(*_arguments: Any) -> Any:
        raise StoreError("the disk is full")

    answer = browser.back(browser.begin(world.new_token()))
    monkeypatch.setattr(deputy.Deputy, "seed", failing)
    monkeypatch.setattr(deputy, "STORE_PATIENCE", 0.0)
    page = browser.finish(answer)

    assert "Not authorized" in page.text
    assert "the disk is full" in page.text
    assert world.proxied.last_audited("consent").outcome == "failed"


def test_a_store_that_is_away_is_told_before_a_human_is_sent_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is asked to consent while it is known that the result could not be stored."""
    browser = world.operator()
    csrf = browser.csrf()

    def away(*_arguments: Any) -> Any:
        raise StoreError("the database is away")

    monkeypatch.setattr("sidecar.records.open_existing", away)
    reply = browser.post("/consent", csrf=csrf, token="t00")

    assert reply.status == 503
    assert "the database is away" in reply.text


def test_an_error_of_ours_is_told_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser that waits for a result is told when it was lost to a bug, and no detail gets out."""
    browser = world.operator()
    answer = browser.back(browser.begin(world.new_token()))

    slip = new_secret("sim-at-")

    async def crash(*_arguments: Any) -> Any:
        raise ValueError(slip)

    monkeypatch.setattr(Authorization, "redeem", crash)
    page = browser.finish(answer)

    assert "unexpected error" in page.text
    assert slip not in page.text


def test_a_code_that_the_provider_refuses_is_told_in_words(world: World) -> None:
    """What the token endpoint says of a code is on the result's page."""
    browser = world.operator()
    answer = browser.back(browser.begin(world.new_token()))
    world.corp.provider.add_fault(faults.error(400, "invalid_grant", "<i>used up</i>"))

    page = browser.finish(answer)

    assert "Not authorized" in page.text
    assert "invalid_grant" in page.text
    assert "<i>used" not in page.text


def test_a_token_is_refreshed_now(world: World) -> None:
    """One click refreshes a token, and the page says what came of it."""
    token, browser = world.new_token(), world.operator()
    browser.consent(token)

    page = browser.get(browser.post("/refresh", token=token).location)

    assert f"{token} was refreshed to generation 1" in page.text
    assert world.proxied.last_audited("refresh").outcome == "done"


def test_a_token_without_a_grant_cannot_be_refreshed(world: World) -> None:
    """Who asks for what can't be done is told why, and how to help it."""
    token, browser = world.new_token(), world.operator()

    page = browser.get(browser.post("/refresh", token=token).location)

    assert "Not refreshed" in page.text
    assert "consent: " in page.text
    assert world.proxied.last_audited("refresh").outcome == "failed"


def test_a_grant_is_revoked(world: World) -> None:
    """An operator ends a grant at its provider, and the token counts as dead from then on."""
    token, browser = world.new_token(), world.operator()
    browser.consent(token)

    page = browser.get(browser.post("/revoke", token=token).location)

    assert f"The grant of {token} is revoked" in page.text
    assert "Readers keep the last access token, which ends at 20" in page.text
    assert "revoked by token-sidecar revoke" in browser.get(f"/tokens/{token}").text
    assert "starts anew" in browser.consent(token).text


def test_a_result_is_for_the_browser_that_began(world: World) -> None:
    """Another browser of the same user, and another user, are not told what came of it."""
    browser = world.operator()
    location = browser.post("/refresh", token=world.new_token()).location

    assert world.operator().get(location).status == 404
    assert world.operator("other@example.test").get(location).status == 404
    assert browser.get(location).status == 200


def test_results_take_bounded_memory() -> None:
    """Old results make room for new ones."""
    jobs = results.Jobs(lambda _: None)
    for number in range(results.MOST + 10):
        jobs.keep(results.Job("s", "refresh", str(number), ""))
    assert len(jobs._kept) == results.MOST


def test_one_user_keeps_few_connections_waiting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of requests that wait for a result, one user's are answered at once beyond a few, and others' still wait."""
    monkeypatch.setattr(results, "HELD", 1e6)
    waited: list[bool] = []

    async def look(user: str) -> None:
        await jobs.wait(job, user)
        waited.append(job.result.done)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for user in ["bob"] * (results.HELD_OF_ONE + 3) + ["olga"]:
                tasks.start_soon(look, user)
            await anyio.wait_all_tasks_blocked()
            assert waited == [False] * 3
            job.end("done", worked=True)

    jobs, job = results.Jobs(lambda _: None), results.Job("s", "refresh", "t", "")
    anyio.run(main)
    assert waited == [False] * 3 + [True] * (results.HELD_OF_ONE + 1)
    assert not jobs._waiting


def test_a_token_that_is_not_there_is_told(world: World) -> None:
    """A name that the configuration doesn't have leads nowhere, in a page and in a form."""
    browser = world.operator()

    assert browser.get("/tokens/nothing").status == 404
    for action in ("/consent", "/refresh", "/revoke"):
        assert browser.post(action, token="nothing").status == 404
        assert browser.post(action).status == 404


def test_groups_make_operators(world: World) -> None:
    """Somebody is an operator by name or by one of their groups."""
    assert Browser(world.proxied, user="g@example.test", groups="a, token-operators").get("/").status == 200
    assert Browser(world.proxied, user="g@example.test", groups="a,b").get("/tokens/t00").status == 403


def test_a_daemon_that_does_not_know_a_token_is_told_of_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is sent to consent to what the running daemon would not take."""

    def status(*_arguments: Any) -> Any:
        return {"tokens": {"another": {}}}

    browser = world.operator()
    csrf = browser.csrf()
    monkeypatch.setattr("sidecar.server.client.ControlClient.status", status)
    reply = browser.post("/consent", csrf=csrf, token="t00")

    assert reply.status == 400
    assert "reload it first" in reply.text


@pytest.mark.parametrize(
    "told",
    [{"token": "t00"}, {"grant_state": "a state of tomorrow"}, {}, None, "what", {"min_validity": "1"}],
)
def test_a_daemon_of_another_version_hides_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, lines: io.StringIO, told: Any
) -> None:
    """Where the console doesn't understand the daemon, pages show what the records say, and the log says why."""

    def status(*_arguments: Any) -> Any:
        return {"tokens": dict.fromkeys(("t00", "t01"), told)}

    monkeypatch.setattr("sidecar.server.client.ControlClient.status", status)
    browser = world.operator()

    overview = browser.get("/?q=t00")
    assert (overview.status, "t00" in overview.text) == (200, True)
    assert lines.getvalue().count("the console doesn't know") == 1
    assert browser.get("/tokens/t00").status == 200
    assert browser.post("/consent", token="t00").status == 200


def test_a_secret_of_ones_own_outlives_a_restart(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With `secret_file` a page that was open before a restart works after it; without, it is too old."""
    folder = tmp_path_factory.mktemp("restarted")
    secret = folder / "secret"
    secret.write_bytes(os.urandom(48))
    secret.chmod(0o600)
    behind = {"url": PUBLIC, "proxy": {"addresses": ["127.0.0.1"]}, "operators": {"users": [OPERATOR]}}
    for given, status in (({"secret_file": str(secret)}, 404), ({}, 403)):
        first = running(
            folder / f"{status}-1", world.corp, world.evil, world.clock, url=PUBLIC, console=behind | given
        )
        with first as console:
            browser = Browser(console, user=OPERATOR)
            csrf = browser.csrf()
        again = running(
            folder / f"{status}-2", world.corp, world.evil, world.clock, url=PUBLIC, console=behind | given
        )
        with again as browser.place:
            assert browser.post("/refresh", csrf=csrf, token="none").status == status


def test_the_daemon_is_asked_where_one_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a daemon on this `state_dir` can do is left to it, and its own errors are told."""
    browser, asked = world.operator(), threading.Event()

    def refresh(*_arguments: Any, **_named: Any) -> Any:
        asked.set()
        raise TemporarilyUnavailable("the daemon is busy")

    monkeypatch.setattr("sidecar.server.client.ControlClient.refresh", refresh)
    page = browser.get(browser.post("/refresh", token="t00").location)

    assert asked.is_set()
    assert "the daemon is busy" in page.text


def test_a_consent_waits_for_no_other_tokens_provider(world: World) -> None:
    """While one token's provider keeps the console waiting, a consent to another token is stored at once."""
    browser, other = world.operator(), world.operator()
    assert "starts anew" in browser.consent("evil").text
    world.evil.provider.add_fault(faults.latency(after=8.0))
    pending = browser.post("/refresh", token="evil").location
    again = browser.post("/refresh", token="evil").location

    assert "starts anew" in other.consent(world.new_token()).text

    assert world.proxied.last_audited("consent").token != "evil"
    assert not [event for event in world.proxied.audited if (event.what, event.token) == ("refresh", "evil")]
    assert "was refreshed to generation" in browser.get(pending).text
    assert "generation" in browser.get(again).text


def test_a_daemon_that_hangs_holds_up_no_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page waits for a daemon that doesn't answer for a little while, and shows what the record says then."""
    browser, over, waited = world.operator(), threading.Event(), threading.Event()

    def hang(*_arguments: Any) -> Any:
        over.wait(PATIENCE)
        waited.set()
        return {}

    monkeypatch.setattr("sidecar.server.client.ControlClient.status", hang)
    monkeypatch.setattr(agent, "LOOK", 0.1)
    try:
        page = browser.get("/tokens/t00")
        assert not waited.is_set()
    finally:
        over.set()
    assert "no daemon here told of it" in page.text


def test_deeds_that_wait_for_the_daemon_keep_nobody_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many refreshes wait for a slow provider, pages are shown and consents are stored."""
    browsers = [Browser(world.proxied, f"{name}@example.test", "token-operators") for name in "abc"]
    answer = browsers[0].back(browsers[0].begin(world.new_token()))
    over, ended = threading.Event(), threading.Event()

    def hang(*_arguments: Any, **_named: Any) -> Any:
        over.wait(PATIENCE)
        ended.set()
        raise TemporarilyUnavailable("the daemon is busy")

    monkeypatch.setattr("sidecar.server.client.ControlClient.refresh", hang)
    monkeypatch.setattr(agent, "LOOK", 2 * PATIENCE)
    try:
        for browser in browsers:
            csrf = browser.csrf()
            for _ in range(16):
                assert browser.post("/refresh", csrf=csrf, token="t00").status == 303
        assert browsers[0].get("/").status == 200
        assert "starts anew from this consent" in browsers[0].finish(answer).text
        assert not ended.is_set()
    finally:
        over.set()
