"""What people do with the console, over HTTP."""

from __future__ import annotations

from tests.console.conftest import Browser, World


def test_a_consent_is_stored_and_shown(world: World) -> None:
    """Two clicks and a consent make a token's first grant, and its page shows it."""
    token, browser = world.new_token(), Browser(world.local).sign_in()

    page = browser.consent(token)

    assert page.status == 200
    assert "starts anew from this consent" in page.text
    assert world.local.last_audited("consent").outcome == "done"
    assert browser.get(f"/tokens/{token}").status == 200
