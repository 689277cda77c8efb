"""The console: a small web application over the store, for operators, and for users who connect accounts of their own.

`guard` is what every request passes, `access` says who asks, `site` has the routes, `flows` the consents that are under
way, `agent` reads records and acts, `views` and `pages` say how it looks. `serve` runs it.
"""

from __future__ import annotations
