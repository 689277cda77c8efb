"""The console's pages as HTML: whole, without script, and proof against whatever text comes from outside."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from enum import Enum
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from sidecar.console import pages, views
from tests import leaks
from tests.console import gallery
from tests.console.gallery import FRAME, NOW

if TYPE_CHECKING:
    from sidecar.config.settings import Settings

HOSTILE = (
    """'"><script>alert(1)</script><img src=x onerror=alert(1)><style>*{}</style>{{ 7*7 }}</title>&#x22;`"""
)
FIXED = {"kind", "level", "action", "iso"}
"""Words of our own that choose a class or a title, and nothing that anybody else can say."""
VOID = {"meta", "link", "input", "br", "wbr", "path", "rect", "circle"}


class Outline(HTMLParser):
    """Reads a page's elements and their attributes, and checks that what is opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} comes twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the one that was opened last; `<path/>` of an SVG has no end of its own."""
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect the text."""
        self.text += data

    @property
    def shape(self) -> list[tuple[str, list[str]]]:
        """What there is, without what it says."""
        return [(tag, sorted(attributes)) for tag, attributes in self.elements]


def spoilt(value: Any, name: str = "") -> Any:
    """Put hostile text in place of every text that may come from outside."""
    if isinstance(value, msgspec.Struct):
        fields = {field: spoilt(getattr(value, field), field) for field in value.__struct_fields__}
        return type(value)(**fields)
    if isinstance(value, tuple):
        return tuple(spoilt(one, name) for one in value)
    if isinstance(value, str) and value and name not in FIXED and not isinstance(value, Enum):
        return f"{value}{HOSTILE}"
    return value


def cases(settings: Settings) -> Iterator[tuple[Callable[..., str], Any]]:
    """Give what is on every page that shows a view."""
    held = gallery.records()
    calendar = held["calendar"]
    assert calendar is not None
    many = {**held, **gallery.crowd(calendar, 120)}
    yield pages.overview, views.overview(settings, gallery.with_members(held), NOW)
    yield pages.overview, views.overview(settings, many, NOW, asked=views.Asked(q="a", show="due", page=2))
    yield pages.overview, views.overview(settings, held, NOW, asked=views.Asked(q="nothing"))
    for name, record in held.items():
        spoken = gallery.live(settings, name, record)
        yield pages.token, views.token(settings, name, record, NOW, live=spoken)
    own = {"calendars": calendar, "mailboxes": held["gmail-westside"], "crm-users": None}
    yield pages.accounts, views.accounts(settings, "dana@example.com", own, NOW)
    for done, worked in ((False, False), (True, False), (True, True)):
        yield pages.result, views.Result("consent", "a", done, worked, "text", "/tokens/a")


def test_hostile_text_stays_text(settings: Settings) -> None:
    """Whatever provider, operator or user may put in any field, the page has the elements that it had before."""
    for write, view in cases(settings):
        harmless, spoiled = Outline(write(FRAME, view)), Outline(write(spoilt(FRAME), spoilt(view)))
        # A name's first slash is where a line may break; of those the hostile text has some more.
        without_breaks = [[one for one in page.shape if one[0] != "wbr"] for page in (harmless, spoiled)]
        assert without_breaks[0] == without_breaks[1]
        assert "<script>alert(1)</script>" in spoiled.text
        assert "49" not in spoiled.text or "{{ 7*7 }}" in spoiled.text


def test_hostile_text_stays_text_without_a_view() -> None:
    """The same for the pages that are made of words."""
    writers: tuple[Callable[[str], str], ...] = (
        lambda text: pages.leading(FRAME, token=text, provider=text, url=f"https://id.example/{text}"),
        lambda text: pages.message(text, text),
    )
    for write in writers:
        assert Outline(write("harmless")).shape == Outline(write(HOSTILE)).shape


@pytest.fixture(scope="module")
def written(settings: Settings) -> dict[str, str]:
    """Give every page of the gallery."""
    return dict(gallery.written(settings))


def test_pages_keep_to_the_content_security_policy(written: dict[str, str]) -> None:
    """No script, no style but the sheet, nothing from elsewhere; forms go to our own paths, with their proof."""
    for page in map(Outline, written.values()):
        tags = {tag for tag, _ in page.elements}
        assert not tags & {"script", "style", "img", "iframe", "object", "base"}
        for tag, attributes in page.elements:
            assert not any(name.startswith("on") or name == "style" for name in attributes), attributes
            if tag == "link":
                assert attributes["href"] in {f"/static/{name}" for name in pages.STATIC}
        for index, (tag, attributes) in enumerate(page.elements):
            if tag == "form" and attributes["method"] == "post":
                action = attributes["action"] or ""
                assert re.fullmatch(r"/[a-z-]+", action)
                assert page.elements[index + 1] == (
                    "input",
                    {"type": "hidden", "name": "csrf", "value": "proof"},
                )


def test_pages_are_documents(written: dict[str, str]) -> None:
    """Each has a title of its own, one first heading, a main part to skip to, and headings that skip no level."""
    for page in map(Outline, written.values()):
        tags = [tag for tag, _ in page.elements]
        assert (tags[0], page.elements[0][1]["lang"]) == ("html", "en")
        levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
        assert levels.count(1) == levels[0] == 1
        assert all(level - before <= 1 for before, level in itertools.pairwise(levels))
        assert tags.count("main") == 1
        assert ("a", {"class": "skip", "href": "#main"}) in page.elements
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
    titles = {re.findall("<title>(.*)</title>", page)[0] for page in written.values()}
    assert len(titles) == len(written)


def test_fields_have_labels_and_tables_keep_their_roles(written: dict[str, str]) -> None:
    """A placeholder is no label; and some browsers forget what a table is once its rows are drawn as cards."""
    roles = {"table": "table", "thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "td": "cell"}
    for page in map(Outline, written.values()):
        labelled = {attributes["for"] for tag, attributes in page.elements if tag == "label"}
        for tag, attributes in page.elements:
            if tag == "input" and attributes.get("type") != "hidden":
                assert attributes["id"] in labelled
            if tag in roles:
                assert attributes["role"] == roles[tag]
            if tag == "th":
                scope = {"rowheader": "row", "columnheader": "col"}[str(attributes["role"])]
                assert attributes["scope"] == scope


def test_only_what_is_connected_can_be_disconnected(written: dict[str, str]) -> None:
    """Of the three services in the gallery one is."""
    forms = [
        attributes["action"] for tag, attributes in Outline(written["accounts"]).elements if tag == "form"
    ]
    assert forms.count("/disconnect") == 1
    assert forms.count("/connect") == 3


def test_no_page_holds_a_secret(written: dict[str, str]) -> None:
    """Tokens appear as fingerprints alone, though the records have them."""
    for name, page in written.items():
        assert not list(leaks.in_bytes(page.encode(), name))
        assert "sim-" not in page
    assert "33ccfbbcb127" in written["token"], "the refresh token's fingerprint"


def test_times_are_words_with_the_exact_time_beside_them(written: dict[str, str]) -> None:
    """Every `<time>` says in UTC when that is."""
    times = re.findall(r'<time[^>]* datetime="([^"]*)"', written["token"])
    assert len(times) > 40
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one) for one in times)


def test_a_page_that_waits_loads_itself_again() -> None:
    """Once an action is done, nothing moves any more."""
    waiting = views.Result("refresh", "a", done=False, worked=False, text="", back="")
    assert '<meta http-equiv="refresh" content="1">' in pages.result(FRAME, waiting)
    done = msgspec.structs.replace(waiting, done=True)
    assert "http-equiv" not in pages.result(FRAME, done)


def test_a_frame_shows_no_proof() -> None:
    """What forms are proven with stays out of logs and tracebacks."""
    assert "proof" not in repr(FRAME)
