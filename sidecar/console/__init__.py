"""The console: a small web application over the store, for those who must consent and those who look after it.

Every request passes `guard`; `access` says who asks. `site` has the routes, `flows` the consents that are under way,
`results` what came of actions, and `agent` reads records and acts. `views` says in frozen values what is on a page, as
pure functions of configuration, records and time; `pages` writes them as HTML, with `templates` and one style sheet.
There is no script: pages are documents. `serve` runs it all.
"""

from __future__ import annotations
