"""A first smoke."""
from __future__ import annotations

async def test_keeps_a_rotating_token_alive_for_a_day(house) -> None:
    seed = house.provider.new_grant()
    d = house.daemon(seed=seed)
    await d.run(86400)
    print(d.sentences()[:6], len(d.grant.calls), d.view)
    assert house.provider.replayed() == []
    assert 30 < len(d.grant.calls) < 40
    assert 0
