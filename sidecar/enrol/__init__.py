"""How a human gives a grant, and how it is taken back: consents and revocation.

`provider` knows where one token's provider is asked, and reads what it answers; `code` and `device` are the two ways
to a consent, `loopback` hears what a browser brings, `revocation` ends a grant. Nothing here stores anything:
what a consent brought is a `Seeding`, and the engine plants it.
"""

from __future__ import annotations
