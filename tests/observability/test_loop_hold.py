"""What holds the event loop up is seen, once, and shown at /metrics."""

import asyncio
import http.client
import socket
import time

from starlette.applications import Starlette

from lmi_chat.config.settings import Settings
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.observability.loop_hold import LOOP_HOLD, TICK_S, LoopHold
from lmi_chat.server import process
from tests.support.scripted import serving

HOLD_S = 0.2


async def test_the_longest_hold_is_told_once() -> None:
    hold = LoopHold()
    with hold.watching():
        await asyncio.sleep(TICK_S)
        time.sleep(HOLD_S)  # noqa: ASYNC251 that is the fault which is measured
        await asyncio.sleep(2 * TICK_S)
        assert hold.take() >= HOLD_S - 2 * TICK_S
        assert hold.take() == 0.0
    time.sleep(HOLD_S)  # noqa: ASYNC251 nobody watches any more
    await asyncio.sleep(2 * TICK_S)
    assert hold.take() == 0.0


async def test_a_server_watches_its_loop_while_it_serves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with process.serving(Settings(), listener, Starlette(), RequestLog()):
            LOOP_HOLD.take()
            await asyncio.sleep(TICK_S)
            time.sleep(HOLD_S)  # noqa: ASYNC251 that is the fault which is measured
            await asyncio.sleep(2 * TICK_S)
            assert LOOP_HOLD.take() >= HOLD_S - 2 * TICK_S


def test_a_scrape_shows_it() -> None:
    LOOP_HOLD.take()
    LOOP_HOLD._longest_s = 0.125
    with serving() as service:
        shown = []
        for _ in range(2):
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
            connection.close()
            shown += [line for line in lines if line.startswith("lmi_chat_loop_hold_seconds")]
    assert shown == ["lmi_chat_loop_hold_seconds 0.125", "lmi_chat_loop_hold_seconds 0.0"]
