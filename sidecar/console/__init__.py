"""The console: a small web application over the store, for those who must consent and those who look after it.

`views` says in frozen values what is on a page, as pure functions of configuration, records and time; `pages` writes
them as HTML, with `templates` and one style sheet. There is no script: pages are documents.
"""

from __future__ import annotations
