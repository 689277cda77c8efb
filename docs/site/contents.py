"""A Sphinx extension: the side bar follows the lists of the pages called index.md.

Sphinx would have a directive for it, which a forge shows as a block of code, and which repeats what the lists say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from docutils import nodes
from sphinx import addnodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata


def setup(app: Sphinx) -> ExtensionMetadata:
    """Have our say before Sphinx looks which pages lead where."""
    app.connect("doctree-read", plant, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def plant(app: Sphinx, page: nodes.document) -> None:
    """Give each section with a list of pages a hidden table of contents, which the side bar shows under its heading."""
    name = app.env.docname
    if name.rpartition("/")[2] != "index":
        return
    for section in list(page.findall(nodes.section)):
        listed = list(pages_of(section))
        if listed:
            planted = _toctree(name, listed)
            section.append(planted)
            if name == app.config.root_doc:
                planted["caption"] = planted["rawcaption"] = section.next_node(nodes.title).astext()


def _toctree(name: str, listed: list[tuple[str, str]]) -> addnodes.toctree:
    return addnodes.toctree(
        parent=name,
        entries=listed,
        includefiles=[linked for _, linked in listed],
        maxdepth=-1,
        hidden=True,
        includehidden=False,
        titlesonly=True,
        glob=False,
        numbered=0,
    )


def pages_of(section: nodes.section) -> Iterator[tuple[str, str]]:
    """Find what a section's own lists are of: each item's first link to a page, with its text."""
    for listing in section.children:
        for item in listing.children if isinstance(listing, nodes.bullet_list) else ():
            for link in item.findall(addnodes.pending_xref):
                if link["refdomain"] == "doc":
                    yield link.astext(), link["reftarget"]
                    break
