"""What others try with the console: each way in over HTTP, as an attacker would take it."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlencode

import pytest

from sidecar.console import flows, limits
from sidecar.console.access import SESSION
from sidecar.console.guard import HEADERS
from sidecar.console.limits import Limit
from sidecar.console.signing import Signer, new_secret
from sidecar.console.site import FORM
from sidecar.testing.config import Consent
from tests.console.conftest import (
    GROUPS_HEADER,
    OPERATOR,
    PUBLIC,
    USER_HEADER,
    Browser,
    Place,
    Reply,
    World,
    query_of,
    routes,
    running,
    with_query,
)

ATTACKER = "https://attacker.example"
SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def redeemed(world: World) -> int:
    """Count the codes that both providers were asked to redeem."""
    return sum(
        record.grant_type == "authorization_code"
        for simulator in (world.corp, world.evil)
        for record in simulator.provider.report().requests
    )


def turned_back(browser: Browser, answer: str) -> Reply:
    """Bring an answer that is of no use; returns the page that the browser is sent to, where no code is."""
    reply = browser.get(answer)
    assert (reply.status, reply.location, reply.text) == (303, "/callback", "")
    page = browser.get(reply.location)
    assert (page.status, "Not expected" in page.text) == (400, True)
    return page


@contextmanager
def nothing_happens(world: World) -> Iterator[None]:
    """Demand that no code is redeemed, and that no deed but a refusal is audited."""
    calls, deeds = redeemed(world), (len(world.local.audited), len(world.proxied.audited))
    yield
    told = [*world.local.audited[deeds[0] :], *world.proxied.audited[deeds[1] :]]
    assert [event for event in told if event.outcome != "refused" and event.what != "sign-in"] == []
    assert redeemed(world) == calls


# `state`


def forged(world: World, address: str, how: str) -> str:
    """Change an answer's `state`."""
    query = query_of(address)
    state, other = query["state"], Signer(new_secret(), world.clock.wall)
    payload = world.proxied.site._signer.read(flows.STATE, state, max_age=600)
    assert payload, "it is signed as it should be"
    signer = world.proxied.site._signer
    changed = {
        "missing": None,
        "empty": "",
        "another's signature": other.sign(flows.STATE, payload),
        "another purpose": signer.sign(FORM, payload),
        "another token": signer.sign(flows.STATE, [payload[0], "t59", payload[2]]),
        "another nonce": signer.sign(flows.STATE, ["x" * 24, *payload[1:]]),
        "no list": signer.sign(flows.STATE, payload[0]),
        "cut": state[:-1],
        "unsigned": state.split(".")[0],
    }[how]
    return with_query(address, state=changed)


@pytest.mark.parametrize(
    "how",
    [
        "missing",
        "empty",
        "another's signature",
        "another purpose",
        "another token",
        "another nonce",
        "no list",
        "cut",
        "unsigned",
    ],
)
def test_a_forged_state_is_refused(world: World, how: str) -> None:
    """An answer whose `state` we didn't sign for this very consent changes nothing, and the true one still works."""
    browser = world.operator()
    answer = browser.back(browser.begin(world.new_token()))

    with nothing_happens(world):
        turned_back(browser, forged(world, answer, how))

    assert "starts anew" in browser.finish(answer).text


def test_a_question_for_headers_takes_no_answer(world: World) -> None:
    """A program that only asks for the headers of an answer's address (HEAD) uses up neither state nor code."""
    browser = world.operator()
    answer = browser.back(browser.begin(world.new_token()))

    with nothing_happens(world):
        assert world.proxied.send("HEAD", answer, browser.headers()).location == "/callback"

    assert "starts anew" in browser.finish(answer).text


def test_a_state_works_once(world: World) -> None:
    """An answer that is replayed changes nothing."""
    browser = world.operator()
    answer = browser.back(browser.begin(world.new_token()))
    browser.finish(answer)

    with nothing_happens(world):
        page = turned_back(browser, answer)

    assert "Nothing was changed" in page.text


@pytest.mark.parametrize("user", [OPERATOR, "mallory@example.test"])
def test_a_state_is_bound_to_its_browser(world: World, user: str) -> None:
    """An answer in another browser, whoever is signed in there, changes nothing, and the right one still takes it."""
    browser, other = world.operator(), world.operator(user)
    answer = browser.back(browser.begin(world.new_token()))
    other.get("/")

    with nothing_happens(world):
        turned_back(other, answer)
        turned_back(Browser(world.proxied, user=user), answer)

    assert "starts anew" in browser.finish(answer).text


def test_a_state_ends_after_ten_minutes(world: World) -> None:
    """An answer that comes too late changes nothing."""
    browser = world.operator()
    answer = browser.back(browser.begin(world.new_token()))
    world.clock.wall_ahead += flows.LIFE + 2

    with nothing_happens(world):
        turned_back(browser, answer)


def test_one_browser_has_few_consents_at_once(world: World) -> None:
    """Consents that nobody finishes take bounded memory, and the newest ones work."""
    browser, waiting = world.operator(), world.proxied.site._flows
    begun = [browser.begin(world.new_token()) for _ in range(flows.MOST_OF_ONE + 2)]
    mine = [
        flow
        for flow in waiting._open.values()
        if flow.session == next(reversed(waiting._open.values())).session
    ]

    assert len(mine) == flows.MOST_OF_ONE
    turned_back(browser, browser.back(begun[0]))
    assert "starts anew" in browser.finish(browser.back(begun[-1])).text


# Codes


def test_a_code_of_another_consent_is_refused(world: World) -> None:
    """A code that was slipped in is refused by the provider for its proof key, and nothing is stored."""
    token, victim, attacker = world.new_token(), world.operator(), world.operator("mallory@example.test")
    stolen = query_of(attacker_answer(world, attacker))["code"]
    answer = victim.back(victim.begin(token))

    page = victim.finish(with_query(answer, code=stolen))

    assert "starts anew" not in page.text
    assert "invalid_grant" in page.text
    assert world.proxied.last_audited("consent").outcome == "failed"
    assert "no refresh token yet" in victim.get(f"/tokens/{token}").text


def attacker_answer(world: World, attacker: Browser) -> str:
    """Have the attacker consent in a browser of their own, where they are operator too."""
    attacker.groups = "token-operators"
    return attacker.back(attacker.begin(world.new_token()))


@pytest.mark.parametrize("path", ["/callback/evil", "/callback/CORP", "/callback/corp2", "/callback/"])
def test_an_answer_at_another_providers_address_is_refused(world: World, path: str) -> None:
    """A provider that mixes us up gets no code of another one: each has an address of its own."""
    browser = world.operator()
    answer = browser.back(browser.begin(world.new_token()))

    with nothing_happens(world):
        turned_back(browser, answer.replace("/callback/corp", path))

    assert "starts anew" in browser.finish(answer).text


def test_a_wrong_issuer_is_refused(world: World) -> None:
    """An answer that names another issuer than the provider's (RFC 9207) is no consent, and its code isn't used."""
    browser = world.operator()
    flow = browser.back(browser.begin("issuer"))
    calls = redeemed(world)

    page = browser.finish(with_query(flow, iss="https://evil.example"))

    assert "mixing up providers" in page.text
    assert redeemed(world) == calls


def test_members_that_come_twice_are_refused(world: World) -> None:
    """An answer with two codes or two states is nobody's."""
    browser = world.operator()
    answer = browser.back(browser.begin(world.new_token()))

    with nothing_happens(world):
        for more in ("code=sim-rt-code-0000000000000000", "state=x"):
            turned_back(browser, f"{answer}&{more}")


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ("nobody is signed in", 401),
        ("another way in", 421),
        ("too much of a name", 400),
        ("too many headers", 431),
        ("too fast", 429),
        ("too long", 400),
        ("another method", 400),
    ],
)
@pytest.mark.parametrize("path", ["/callback/corp", "/callback", "/callback/tokens/x", "/sign-in"])
def test_no_code_stays_in_the_address_bar(world: World, path: str, wrong: str, status: int) -> None:
    """Whatever is wrong with a request that has a code or a key, its page is at an address without it."""
    place = world.local if path == "/sign-in" else world.proxied
    query, entry = urlencode({"code": "c", "key": "k", "state": "s"}), f"/{path.split('/')[1]}"
    method, host, headers = (
        "GET",
        "",
        [] if place is world.local else [(USER_HEADER, f"{wrong}@example.test")],
    )
    match wrong:
        case "nobody is signed in":
            headers = []
        case "another way in":
            host = "attacker.example"
        case "too much of a name":
            headers = headers * 2
        case "too many headers":
            headers += [("X-Long", "x" * 33_000)]
        case "too fast":
            for _ in range(61):
                place.send("GET", "/results/x", headers)
        case "too long":
            query += "x" * 9000
        case _:
            method = "PUT"

    reply = place.send(method, f"{path}?{query}", headers, host=host)
    page = place.send("GET", reply.location, headers, host=host)

    assert (reply.status, reply.location, reply.text) == (303, entry, "")
    assert {answer.header("referrer-policy") for answer in (reply, page)} == {"no-referrer"}
    assert page.status == (401 if place is world.local and status == 400 else status)


def test_an_error_of_ours_leaves_no_code_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the console itself fails, the code is gone from the address bar."""
    browser = world.operator()
    answer = browser.back(browser.begin(world.new_token()))

    def crash(*_arguments: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(flows.Flows, "take", crash)
    reply = browser.get(answer)
    assert (reply.status, reply.location, reply.text) == (303, "/callback", "")


def test_who_is_no_operator_any_more_consents_to_nothing(world: World) -> None:
    """An operator's consent is refused, and its code not used, when they come back as no operator."""
    browser = Browser(world.proxied, user="gina@example.test", groups="token-operators")
    answer = browser.back(browser.begin(world.new_token()))
    browser.groups = "others"

    with nothing_happens(world):
        page = browser.finish(answer)

    assert "This is for operators alone" in page.text
    assert world.proxied.last_audited("consent").outcome == "refused"


def test_no_two_issuers_share_a_callback_address(world: World) -> None:
    """A provider without a name has an address that none with a name can have, whatever its token is called."""
    named, unnamed = (query_of(world.operator().begin(token))["redirect_uri"] for token in ("corp", "t59"))

    assert (named, unnamed) == (f"{PUBLIC}/callback/tokens/corp", f"{PUBLIC}/callback/corp")


# Scripts


def test_what_a_provider_says_is_shown_escaped(world: World) -> None:
    """An `error` and an `error_description` are text, whatever a provider writes into them."""
    browser = world.operator()
    answer = browser.back(browser.begin(world.new_token()))
    state = query_of(answer)["state"]

    page = browser.finish(
        f"/callback/corp?{urlencode({'state': state, 'error': SCRIPT, 'error_description': SCRIPT})}"
    )

    assert "&lt;script&gt;" in page.text
    assert not has_script(page)


def test_a_refusal_is_told_in_words(world: World) -> None:
    """Somebody who says no at the provider is told that nothing was changed."""
    browser = world.operator()
    authorize = browser.begin(world.new_token())
    world.corp.provider.reconfigure(consent=Consent.REFUSED)
    try:
        answer = browser.back(authorize)
    finally:
        world.corp.provider.reconfigure(consent=Consent.GIVEN)

    page = browser.finish(answer)

    assert "the consent was refused: access_denied (the user said &lt;no&gt;)" in page.text
    assert world.proxied.last_audited("consent").outcome == "refused"


def test_an_operators_words_are_shown_escaped(world: World) -> None:
    """A provider's title, a user's name and a token's name are text on every page."""
    browser = Browser(world.proxied, user=f"{SCRIPT[:60]}@example.test", groups="token-operators")

    for page in (
        browser.get("/"),
        browser.get("/tokens/evil"),
        browser.post("/consent", token="evil"),
        browser.get(f"/?{urlencode({'q': SCRIPT})}"),
        browser.get(f"/tokens/{quote(SCRIPT)}"),
        browser.post("/consent", token=SCRIPT),
        browser.get("/results/<script>alert(1)</script>"),
    ):
        assert not has_script(page), page.text


def has_script(page: Reply) -> bool:
    """Tell whether anything that we were given has become markup."""
    return bool(re.search(r"<script|<img|<b>Evil|onerror=alert\(2\)>", page.text))


# Forms


def actions(place: Place) -> list[str]:
    """List the paths of everything that changes something."""
    return [path for method, path in routes(place) if method == "POST"]


def tricks(browser: Browser, other: Browser) -> dict[str, tuple[list[tuple[str, str]], str | None]]:
    """List what another's page can send: headers beside the cookies, and a form token if any."""
    own, theirs = browser.csrf(), other.csrf()
    ours = browser.same_origin()
    return {
        "no form token": (ours, None),
        "an empty form token": (ours, ""),
        "another's form token": (ours, theirs),
        "a session as form token": (ours, next(iter(browser.cookies.values()))),
        "another origin": ([("Origin", ATTACKER)], own),
        "another origin, as a browser says it": (
            [("Origin", ATTACKER), ("Sec-Fetch-Site", "cross-site")],
            own,
        ),
        "a hidden origin": ([("Origin", "null"), ("Sec-Fetch-Site", "cross-site")], own),
        "a hidden origin alone": ([("Origin", "null")], own),
        "a sibling's origin": (
            [("Origin", "https://other.example.test"), ("Sec-Fetch-Site", "same-site")],
            own,
        ),
        "our origin, and a sibling's site": ([*ours[:1], ("Sec-Fetch-Site", "same-site")], own),
        "our name in clear": ([("Origin", PUBLIC.replace("https", "http")), *ours[1:]], own),
        "two origins": ([*ours, ("Origin", ATTACKER)], own),
        "no word of the origin": ([], own),
        "a longer origin": ([("Origin", f"{PUBLIC}.attacker.example")], own),
    }


def test_there_are_actions_to_be_protected(world: World) -> None:
    """What follows goes through the routes that there are."""
    assert {"/consent", "/refresh", "/revoke"} <= {*actions(world.proxied)}
    assert "/sign-out" in actions(world.local)


@pytest.mark.parametrize("which", ["local", "proxied"])
def test_nobody_elses_page_sends_a_form(world: World, which: str) -> None:
    """Every action refuses each form that comes from elsewhere, and does nothing (CSRF)."""
    token = world.new_token()
    place: Place = getattr(world, which)
    browser, other = (
        (Browser(place).sign_in(), Browser(place).sign_in())
        if which == "local"
        else (world.operator(), world.operator("other@example.test"))
    )
    found = tricks(browser, other)
    for path in actions(place):
        for name, (headers, csrf) in found.items():
            world.clock.monotonic_ahead += 3600
            if which == "local" and "our name" in name:
                continue
            form = {"token": token, "set": token} | ({} if csrf is None else {"csrf": csrf})
            with nothing_happens(world):
                reply = browser.send_form(path, urlencode(form).encode(), *headers)
            assert reply.status == 403, f"{path}: {name}: {reply.status}"


def test_only_forms_are_taken(world: World) -> None:
    """An action takes POST alone, and of bodies a form alone: what a page elsewhere could send without a form too."""
    browser = world.operator()
    csrf = browser.csrf()
    for path in actions(world.proxied):
        world.clock.monotonic_ahead += 3600
        body = urlencode({"csrf": csrf, "token": "t00"})
        with nothing_happens(world):
            for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
                assert world.proxied.send(method, f"{path}?{body}", browser.headers()).status == 405
            for kind in ("text/plain", "application/json", "multipart/form-data; boundary=x", ""):
                headers = [*browser.headers(), *browser.same_origin(), ("Content-Type", kind)]
                assert world.proxied.send("POST", path, headers, body.encode()).status == 415
            assert browser.send_form(f"{path}?{body}", b"", *browser.same_origin()).status == 403


@pytest.mark.parametrize(
    "body",
    [b"\xff\xfe=x", b"csrf=a&csrf=b", b"%ff=%ff", b"&".join(b"f%d=x" % number for number in range(20))],
)
def test_a_form_that_is_none_is_refused(world: World, body: bytes) -> None:
    """Bytes that are no form, and members that come twice, are refused in words."""
    browser = world.operator()
    reply = browser.send_form("/refresh", body, *browser.same_origin())
    assert reply.status in {400, 403}


# Sizes and paths


def test_what_is_too_long_is_refused(world: World) -> None:
    """Addresses, forms and headers have limits that nothing of ours comes near."""
    browser = world.operator()
    form = [*browser.same_origin()]

    assert browser.get(f"/?q={'x' * 9000}").status == 414
    assert browser.get(f"/tokens/{'x' * 9000}").status == 414
    assert browser.send_form("/consent", b"csrf=" + b"x" * 5000, *form).status == 413
    assert browser.send_form("/consent", b"csrf=" + b"x" * 60_000, *form).status == 413
    assert browser.get("/", ("X-Long", "x" * 40_000)).status == 431
    assert Browser(world.proxied, user="x" * 300).get("/").status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/static/../site.py",
        "/static/..%2fsite.py",
        "/static/%2e%2e/site.py",
        "/static/console.css/../../site.py",
        "/static//etc/passwd",
        "/static/site.py",
        "/static/",
        "/tokens/../../etc/passwd",
        "/tokens/..%2f..%2fetc%2fpasswd",
        "/tokens/%00",
        "/tokens/t00%00",
        "/tokens/t00/",
        "/tokens/",
        "/tokens/%ff%fe",
        "/tokens/t00%0d%0aSet-Cookie:%20a=b",
        "/results/../tokens/t00",
        "//attacker.example/",
        "//attacker.example/%2e%2e",
        "/\\attacker.example",
        "/.git/config",
        "/consent/",
        "/;/tokens/t00",
    ],
)
def test_paths_lead_nowhere_else(world: World, path: str) -> None:
    """A path that is none of ours is not found; none is tidied up, read from a disk, or redirected."""
    reply = world.operator().get(path)
    assert (reply.status, reply.location) == (404, "")
    assert "root:" not in reply.text
    assert not reply.header("set-cookie").startswith("a=")


def test_every_redirect_leads_to_a_path_of_ours(world: World) -> None:
    """No parameter and no header moves a redirect elsewhere (open redirects)."""
    browser = world.operator()
    lures = urlencode(dict.fromkeys(("next", "back", "url", "return_to", "redirect_uri", "rd"), ATTACKER))
    spoofed = [("X-Forwarded-Host", "attacker.example"), ("Forwarded", "host=attacker.example")]
    answer = browser.back(browser.begin(world.new_token()))

    replies = [
        browser.get(f"{answer}&{lures}", *spoofed),
        browser.post("/refresh", *spoofed, token="t00", **dict.fromkeys(("next", "back", "rd"), ATTACKER)),
    ]
    local = Browser(world.local)
    replies += [local.get(f"{world.local.link()}&{lures}"), local.post("/sign-out", next=ATTACKER)]

    for reply in replies:
        assert reply.status == 303
        assert re.fullmatch(r"/(results/[\w-]+|sign-in)?", reply.location), reply.location


# Who may


def addresses(place: Place) -> list[tuple[str, str]]:
    """List every route with names filled in."""
    filled = {"{name:path}": "t00", "{id}": "x", "{provider:path}": "corp", "{name}": "console.css"}
    found = []
    for method, path in routes(place):
        for mark, value in filled.items():
            path = path.replace(mark, value)  # noqa: PLW2901
        assert "{" not in path, f"{path}: say in this test what stands there"
        found.append((method, path))
    return found


OPEN = {"/static/console.css", "/sign-in"}
"""What nobody need be signed in for."""


def test_nobody_gets_anything_without_signing_in(world: World) -> None:
    """Every route but the style sheet and the way in is shut for who isn't signed in."""
    for method, path in addresses(world.local):
        reply = world.local.send(method, path, [])
        if path in OPEN:
            assert reply.status in {200, 401}
            assert "t00" not in reply.text
        else:
            assert reply.status == 401, f"{method} {path}"
            assert "token-sidecar console" in reply.text
        world.clock.monotonic_ahead += 3600


def test_the_proxy_has_to_name_somebody(world: World) -> None:
    """Behind a proxy a request without a name is refused everywhere."""
    for method, path in addresses(world.proxied):
        if path not in OPEN:
            assert world.proxied.send(method, path, []).status == 401, f"{method} {path}"


def test_users_are_no_operators(world: World) -> None:
    """Somebody who is signed in, and no operator, sees and changes no token."""
    user = Browser(world.proxied, user="user@example.test", groups="others,token-operators-not")
    forms = {"/consent", "/refresh", "/revoke", "/add"}
    session = "s"
    value = world.proxied.site._signer.sign(SESSION, [session, user.user])
    user.cookies = {"__Host-token-sidecar": value}
    form_token = world.proxied.site._signer.sign(FORM, session)
    for method, path in addresses(world.proxied):
        if method == "POST" and path in forms:
            reply = user.post(path, csrf=form_token, token="t00", set="t00", account="x")
            assert reply.status == 403, path
            assert "operators alone" in reply.text
            assert world.proxied.last_audited("request").who == "user@example.test"
        elif method == "GET":
            page = user.get(path)
            assert "t00" not in page.text, path
    assert user.get("/tokens/t00").status == 403
    assert (user.get("/").status, user.get("/").location) == (303, "/accounts")


@pytest.mark.parametrize(
    ("names", "status"),
    [
        ([OPERATOR, "mallory@example.test"], 400),
        (["mallory@example.test", OPERATOR], 400),
        ([""], 401),
        ([" "], 401),
        (["a\tb"], 400),
    ],
)
def test_a_proxys_header_is_one_plain_name(world: World, names: list[str], status: int) -> None:
    """Two names, no name, and what is no name are refused; nobody is guessed."""
    headers = [(USER_HEADER, name) for name in names]
    assert world.proxied.send("GET", "/", headers).status == status
    assert world.proxied.send("GET", "/", [(name.upper(), value) for name, value in headers]).status == status


def test_two_lists_of_groups_are_refused(world: World) -> None:
    """A second header with groups, such as a browser's own, makes nobody an operator."""
    headers = [(USER_HEADER, "m@example.test"), (GROUPS_HEADER, "none"), (GROUPS_HEADER, "token-operators")]
    assert world.proxied.send("GET", "/", headers).status == 400


def test_a_name_from_elsewhere_is_refused(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Who isn't the proxy is refused on every route, with and without the header that only the proxy may send."""
    console = {
        "url": PUBLIC,
        "proxy": {"addresses": ["192.0.2.0/24", "2001:db8::1"]},
        "operators": {"users": ["*"]},
    }
    folder = tmp_path_factory.mktemp("elsewhere") / "console"
    with running(folder, world.corp, world.evil, world.clock, url=PUBLIC, console=console) as place:
        for method, path in addresses(place):
            if path not in OPEN:
                assert place.send(method, path, [(USER_HEADER, OPERATOR)]).status == 403
                assert place.send(method, path, []).status == 403
            world.clock.monotonic_ahead += 3600
        assert "through the proxy" in place.send("GET", "/", [(USER_HEADER, OPERATOR)]).text


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Email"])
def test_a_proxy_that_nobody_told_of_is_refused(world: World, header: str) -> None:
    """With one-time links a proxy in between would make everybody the person at this machine."""
    browser = Browser(world.local).sign_in()
    assert browser.get("/", (header, "192.0.2.1")).status == 403
    opened = Browser(world.local).get(world.local.link(), (header, "192.0.2.1"))
    assert (opened.location, opened.header("set-cookie")) == ("/sign-in", "")
    assert browser.get("/").status == 200


@pytest.mark.parametrize(
    "host", ["attacker.example", "127.0.0.1", "localhost:{port}", "127.0.0.1:{port}.attacker.example"]
)
def test_other_names_for_our_address_are_refused(world: World, host: str) -> None:
    """A web page that had its own name point here is not of our origin (DNS rebinding)."""
    named = host.format(port=world.local.url.rpartition(":")[2])
    browser = Browser(world.local).sign_in()
    for _, path in addresses(world.local):
        assert world.local.send("GET", path, browser.headers(), host=named).status == 421
    assert world.local.send("GET", "/livez", [], host=named).text == "ok\n"


# Sessions


def test_a_link_works_once(world: World) -> None:
    """Who finds a link that was opened, as in a browser's history, isn't let in."""
    link = world.local.link()
    assert world.local.send("HEAD", link, []).location == "/sign-in"
    assert Browser(world.local).get(link).status == 303
    again = Browser(world.local).get(link)
    assert (again.status, again.location, again.header("set-cookie")) == (303, "/sign-in", "")
    assert "was used" in Browser(world.local).get("/sign-in").text
    assert world.local.last_audited("sign-in").outcome == "refused"


def test_a_link_ends_after_ten_minutes(world: World) -> None:
    """A link that nobody opened in time lets nobody in."""
    link = world.local.link()
    world.clock.wall_ahead += 602
    reply = Browser(world.local).get(link)
    assert (reply.location, reply.header("set-cookie")) == ("/sign-in", "")


@pytest.mark.parametrize("key", ["", "x", "..", "session", "form"])
def test_a_link_that_we_did_not_make_lets_nobody_in(world: World, key: str) -> None:
    """Neither guesses nor what was signed for something else is a key."""
    signer = world.local.site._signer
    made = {"session": signer.sign(SESSION, ["x", "root"]), "form": signer.sign("link", "x")}
    reply = Browser(world.local).get(f"/sign-in?{urlencode({'key': made.get(key, key)})}")
    assert (reply.location, reply.header("set-cookie")) == ("/sign-in", "")


def test_a_session_cannot_be_made_up(world: World) -> None:
    """A cookie that we didn't sign as a session, or for this user, is none."""
    signer, other = world.local.site._signer, Signer(new_secret(), world.clock.wall)
    name = world.local.site._cookies.name
    for value in (
        "",
        "x",
        other.sign(SESSION, ["x", "root"]),
        signer.sign(FORM, ["x", "root"]),
        signer.sign(SESSION, "x"),
    ):
        assert Browser(world.local, cookies={name: value}).get("/").status == 401


def test_a_session_ends(world: World) -> None:
    """A cookie is worth nothing after the session's time, nor after signing out, wherever a copy of it is."""
    browser, left = Browser(world.local).sign_in(), Browser(world.local).sign_in()
    copy = dict(browser.cookies)
    assert browser.post("/sign-out").status == 303
    assert Browser(world.local, cookies=copy).get("/").status == 401
    assert left.get("/").status == 200
    world.clock.wall_ahead += 8 * 3600 + 2
    assert left.get("/").status == 401


def test_a_form_of_another_user_is_refused(world: World) -> None:
    """Where somebody else signs in at the proxy, pages of the one before can't act in their name."""
    browser = world.operator()
    csrf = browser.csrf()
    browser.user = "second@example.test"
    browser.groups = "token-operators"
    with nothing_happens(world):
        assert browser.post("/refresh", csrf=csrf, token="t00").status == 403


def test_cookies_are_shut_in(world: World) -> None:
    """No script reads the cookie, no other site sends it along with a form, and over https no sibling sets it."""
    local, proxied = Browser(world.local).get(world.local.link()), world.operator().get("/")
    for reply in (local, proxied):
        assert {"HttpOnly", "SameSite=lax", "Path=/"} <= {*reply.header("set-cookie").split("; ")}
        assert "Domain" not in reply.header("set-cookie")
    assert proxied.header("set-cookie").startswith("__Host-")
    assert "; Secure" in proxied.header("set-cookie")


# Limits


def test_too_many_requests_are_refused(world: World) -> None:
    """One user who asks too often has to wait, and nobody else."""
    greedy = Browser(world.proxied, user="greedy@example.test")
    replies = {greedy.get("/nothing/../here").status for _ in range(3)} | {
        greedy.get("/results/x").status for _ in range(130)
    }
    assert replies == {404, 429}
    assert world.operator().get("/").status == 200


def test_too_many_actions_are_refused(world: World) -> None:
    """What changes something is limited more strictly than what is looked at."""
    browser = world.operator("busy@example.test")
    browser.groups = "token-operators"
    csrf = browser.csrf()
    statuses = [browser.post("/consent", csrf=csrf, token="none").status for _ in range(25)]
    assert statuses[0] == 404
    assert statuses[-1] == 429
    assert browser.get("/").status == 200


def test_limits_take_bounded_memory() -> None:
    """Any number of addresses leaves a bounded number of buckets."""
    limit = Limit(lambda: 0.0, burst=1, per_minute=1)
    for number in range(limits.MOST + 100):
        assert limit.admits(str(number))
    assert len(limit._buckets) == limits.MOST
    assert not limit.admits(str(limits.MOST + 99))


def test_nobody_hides_behind_anothers_refusals(world: World) -> None:
    """Behind one proxy each user's refusals are written down, and of one's many it is told how many were left out."""
    loud, other = (Browser(world.proxied, user=f"{name}@example.test") for name in ("loud-one", "quiet-one"))

    def refusals_of(browser: Browser) -> list[str]:
        return [event.reason for event in world.proxied.audited if event.who == browser.user]

    for _ in range(50):
        assert loud.get("/tokens/t00").status == 403
    told = len(refusals_of(loud))
    assert other.get("/tokens/t00").status == 403
    world.clock.monotonic_ahead += 3600
    for _ in range(2):
        assert loud.get("/tokens/t00").status == 403

    assert told <= 25
    assert len(refusals_of(other)) == 1
    first, second = refusals_of(loud)[told:]
    assert f"({50 - told} before it are not written down)" in first
    assert "not written down" not in second


def test_refusals_do_not_fill_the_audit_log(world: World) -> None:
    """Who knocks without end is written down some times, not each time."""
    before = len(world.local.audited)
    for _ in range(100):
        assert world.local.send("GET", "/", []).status in {401, 429}
    assert 0 < len(world.local.audited) - before <= 25


# Secrets


def test_no_secret_is_in_any_address_page_or_header(world: World, lines: io.StringIO) -> None:
    """From the click to the token's page, no code, token or client secret is anywhere but on its way to its owner."""
    token = world.new_token()
    for browser in (world.operator(), Browser(world.local).sign_in()):
        answer = browser.back(browser.begin(token))
        code = query_of(answer)["code"]
        reply = browser.get(answer)
        page = browser.get(reply.location)
        shown = [
            *browser.seen,
            page.text,
            browser.get(f"/tokens/{token}").text,
            browser.get("/").text,
            lines.getvalue(),
        ]
        assert (reply.status, reply.text, reply.header("referrer-policy")) == (303, "", "no-referrer")
        assert not [text for text in shown if "sim-" in text.replace("sim-client", "")]
        assert not [text for text in shown if code in text]
        assert not [
            event for event in (*world.local.audited, *world.proxied.audited) if "sim-" in repr(event)
        ]


def test_no_server_log_has_an_address(world: World) -> None:
    """Whatever somebody switches on, no line of the web server names a path: there are codes and keys in some."""
    heard = io.StringIO()
    logger, handler = logging.getLogger("uvicorn.access"), logging.StreamHandler(heard)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        Browser(world.local).get(world.local.link())
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert heard.getvalue() == ""


def test_every_answer_has_the_security_headers(world: World) -> None:
    """Whatever is asked, the answer can't be framed, sniffed, cached or scripted."""
    browser = world.operator()
    asked = [
        *addresses(world.proxied),
        ("GET", "/nothing"),
        ("POST", "/"),
        ("GET", f"/{'x' * 9000}"),
        ("GET", "/livez"),
    ]
    for method, path in asked:
        for headers in ([], browser.headers()):
            reply = world.proxied.send(method, path, headers)
            expected = HEADERS | ({"cache-control": "max-age=300"} if path.startswith("/static") else {})
            if path.startswith("/callback"):
                expected |= {"referrer-policy": "no-referrer"}
            found = {name: reply.header(name) for name in expected}
            assert found == expected, f"{method} {path}"
            assert reply.header("strict-transport-security")
            assert reply.header("server") == ""
    assert "script-src" not in HEADERS["content-security-policy"]


def test_pages_hold_nothing_that_the_policy_forbids(world: World) -> None:
    """No page has a script, a style attribute, or anything from another origin."""
    browser = world.operator()
    token = world.new_token()
    pages = [
        browser.consent(token),
        browser.get("/"),
        browser.get(f"/tokens/{token}"),
        browser.get("/nothing"),
    ]
    pages += [Browser(world.local).get("/")]
    for page in pages:
        assert not re.search(r"<script|\sstyle=|\son\w+=|javascript:", page.text)
        assert not re.search(r'(?:src|action)="(?:https?:)?//', page.text)
