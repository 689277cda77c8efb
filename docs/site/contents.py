"""A Sphinx extension: the side bar follows the lists and tables of the pages called index.md.

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


KINDS = {nodes.bullet_list: nodes.list_item, nodes.table: nodes.row}
"""What lists pages → what in it stands for one of them."""


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
    """Find what a section lists itself: the first link to a page in each item or row, with its text."""
    for child in section.children:
        for item in child.findall(KINDS[type(child)]) if type(child) in KINDS else ():
            links = item.findall(addnodes.pending_xref)
            link = next((one for one in links if one["refdomain"] == "doc"), None)
            if link is not None:
                yield link.astext(), link["reftarget"]
