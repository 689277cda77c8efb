from __future__ import annotations

import pytest

from sidecar import renewer
from tests.docs import errors_page, pictures
from tests.docs.pages import DOCS, read
from tests.docs.reference import WRITTEN

BY_OTHERS = {"crash-matrix.md", "dashboard.md"}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_from_code_is_current(name: str) -> None:
    """Whatever is written from code says what the code says."""
    assert (DOCS / name).read_text(encoding="utf-8") == WRITTEN[name](), "renew it with: make reference"


def test_whatever_says_so_is_written_from_code() -> None:
    """A page whose first comment says that it is written from code is compared with it."""
    says = {page.name for page in (DOCS / "reference").glob("*.md") if "<!-- Written " in read(page)}

    assert says == {name.removeprefix("reference/") for name in WRITTEN if name.endswith(".md")} | BY_OTHERS


def test_every_remedy_is_for_an_error_that_there_is() -> None:
    """No remedy outlives its error."""
    page = errors_page.generate()

    assert not [name for name in errors_page.REMEDIES if f"| `{name}` |" not in page]


def test_the_picture_shows_every_layer() -> None:
    """Each floor has its words, and no words are left over from a floor that is gone."""
    floors = list(pictures.layers())
    modules = {name for floor in floors for name in floor}

    assert not [floor for floor in floors if not pictures.WORDS.keys() & set(floor)]
    assert {*pictures.WORDS, *pictures.GROUPS} <= modules
    assert not [words for words in pictures.WORDS.values() if len(words) > 46]


def test_the_picture_of_a_turn_shows_its_steps() -> None:
    """They are those of the renewer, in its order."""
    assert " → ".join(step.name for step in pictures.STEPS) in (renewer.__doc__ or "")
