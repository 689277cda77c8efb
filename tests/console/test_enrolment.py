"""Users who connect accounts of their own, and operators who add accounts (scenario S5), over HTTP."""

from __future__ import annotations

import pytest

from tests.console.conftest import Browser, World, query_of


def user(world: World, name: str) -> Browser:
    """Give the browser of somebody who is no operator."""
    return Browser(world.proxied, user=name)


def connect(browser: Browser, **form: str) -> str:
    """Ask for a consent of one's own; returns the provider's address."""
    csrf = browser.get("/accounts").csrf
    reply = browser.post("/connect", csrf=csrf, **form)
    assert reply.status == 200, reply.text
    return reply.leads_to


def test_a_user_connects_their_own_account(world: World) -> None:
    """Somebody who is signed in gives a grant of their own, under their own name, and takes it back."""
    dana = user(world, "dana@example.test")
    assert "not connected" in dana.get("/accounts").text
    authorize = connect(dana, set="people")

    page = dana.finish(dana.back(authorize))

    assert query_of(authorize)["scope"] == "mail.read mail.send"
    assert "people/dana@example.test starts anew from this consent" in page.text
    assert (world.proxied.last_audited("connect").outcome, world.proxied.last_audited("connect").who) == (
        "done",
        "dana@example.test",
    )
    assert 'href="/accounts"' in page.text
    assert "not connected" not in dana.get("/accounts").text
    csrf = dana.get("/accounts").csrf
    ended = dana.get(dana.post("/disconnect", csrf=csrf, set="people").location)
    assert "is revoked" in ended.text
    assert "connected again" in dana.get("/accounts").text
    assert world.proxied.last_audited("disconnect").outcome == "done"


def test_users_have_nothing_of_each_other(world: World) -> None:
    """Whatever a user puts into a form or an address, it is their own account that is meant."""
    eve, mallory = user(world, "eve@example.test"), user(world, "mallory@example.test")
    eve.finish(eve.back(connect(eve, set="people")))

    authorize = connect(mallory, set="people", account="eve@example.test", token="people/eve@example.test")
    page = mallory.finish(mallory.back(authorize))

    assert "people/mallory@example.test starts anew" in page.text
    assert "eve@example.test" not in mallory.get("/accounts").text
    assert mallory.get("/tokens/people/eve@example.test").status == 403
    csrf = mallory.get("/accounts").csrf
    for action in ("/consent", "/refresh", "/revoke"):
        assert mallory.post(action, csrf=csrf, token="people/eve@example.test").status == 403
    assert mallory.post("/add", csrf=csrf, set="people", account="eve@example.test").status == 403
    mallory.get(mallory.post("/disconnect", csrf=csrf, set="people", account="eve@example.test").location)
    assert "not connected" not in eve.get("/accounts").text


@pytest.mark.parametrize("of", ["staff", "nothing", "t00", "people/eve", "", "../people"])
def test_users_connect_to_nothing_else(world: World, of: str) -> None:
    """Sets without enrolment, plain tokens and made-up names are none that a user can connect to."""
    browser = user(world, "frank@example.test")
    csrf = browser.get("/accounts").csrf
    for action in ("/connect", "/disconnect"):
        assert browser.post(action, csrf=csrf, set=of).status == 404


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b", "<b>x</b>", "..", "ünïcode", "a b;c&d=e", "%2e%2e"]
)
def test_names_of_users_stay_names(world: World, name: str) -> None:
    """An account is called what its user is called, whatever that is, and pages show it as text."""
    browser = user(world, name)

    page = browser.finish(browser.back(connect(browser, set="people")))

    assert "starts anew from this consent" in page.text
    assert "<b>x" not in page.text
    assert world.proxied.last_audited("connect").token == f"people/{name}"
    assert "not connected" not in browser.get("/accounts").text


@pytest.mark.parametrize("name", ["*", "x" * 256])
def test_names_that_can_be_no_account_are_told(world: World, name: str) -> None:
    """Who is called what no account can be called is told so."""
    assert user(world, name).get("/accounts").status == 400


def test_an_operator_adds_an_account(world: World) -> None:
    """An operator gives an account that a set doesn't have yet its first grant, and sees it with the others."""
    browser = world.operator()

    added = browser.post("/add", set="staff", account=" office@example.test ")
    page = browser.finish(browser.back(added.leads_to))

    assert "staff/office@example.test starts anew" in page.text
    assert "/tokens/staff/office%40example.test" in browser.get("/?q=office").text
    shown = browser.get("/tokens/staff/office%40example.test")
    assert (shown.status, "no refresh token yet" in shown.text) == (200, False)
    again = browser.consent("staff/office@example.test")
    assert "starts anew" in again.text


@pytest.mark.parametrize("account", ["", "*", "a\nb", "x" * 300])
def test_what_can_be_no_account_is_told(world: World, account: str) -> None:
    """A name that no account can have is refused before anybody is sent to the provider."""
    assert world.operator().post("/add", set="staff", account=account).status == 400
    assert world.operator().post("/add", set="nothing", account="a").status == 404


def test_operators_connect_accounts_too(world: World) -> None:
    """An operator is a user as well."""
    browser = Browser(world.local).sign_in()
    assert "people" in browser.get("/accounts").text
