"""A conversation with a provider without a network, for engines that run on a mock clock."""

from __future__ import annotations

from collections.abc import Mapping

import anyio

from sidecar.testing.faults import Delivery, Fault, Reply
from sidecar.testing.provider import Exchange, NoAnswer, Provider


async def request_token(
    provider: Provider,
    form: Mapping[str, str],
    authorization: str | None = None,
    *,
    malformed: str | None = None,
) -> Reply:
    """Ask the token endpoint, with the latencies and losses that its faults script.

    `malformed` says what makes the request an invalid_request on sight. Raises `NoAnswer` where a connection would
    have ended early. A caller that is cancelled has hung up: its request is processed all the same, and the answer
    counts as cut.
    """
    exchange = provider.receive(form, authorization, malformed=malformed)
    try:
        reply = await _converse(exchange)
    except BaseException:
        exchange.cut()
        raise
    exchange.answered()
    return reply


async def _converse(exchange: Exchange) -> Reply:
    fault = exchange.fault
    try:
        await anyio.sleep(fault.latency_before)
    finally:
        reply = exchange.process()
    await anyio.sleep(fault.latency_after)
    if fault.delivery is Delivery.HOLD:
        await anyio.sleep_forever()
    if fault.delivery is Delivery.TRICKLE:
        await anyio.sleep(_trickle_seconds(fault, len(reply.body)))
    elif fault.delivery is not Delivery.WHOLE:
        raise NoAnswer(fault.delivery)
    return reply


def _trickle_seconds(fault: Fault, size: int) -> float:
    return size / fault.trickle_bytes * fault.trickle_interval
