"""Why a request is not answered as it wanted, for its page and for the audit log."""

from __future__ import annotations


class Refused(Exception):
    """A request is turned away."""

    def __init__(self, status: int, title: str, text: str) -> None:
        """`status` is HTTP's; `text` is one or two sentences with the way out."""
        super().__init__(text)
        self.status = status
        self.title = title
        self.text = text
