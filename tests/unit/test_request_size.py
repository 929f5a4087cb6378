"""How many bytes one process takes in at the same moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from console import request_size
from console.request_size import RequestSizeLimit

LIMIT = 1000
SCOPE = {
    "raw_path": b"/x", "query_string": b"", "path": "/x",
    "headers": [(b"cookie", b"sessionid=abc")],
}  # fmt: skip


class Upload:
    """A request whose body comes in chunks of 600 bytes, as they are asked for."""

    def __init__(self, chunks: int) -> None:
        self.left = chunks
        self.statuses: list[int] = []

    async def receive(self) -> dict[str, Any]:
        self.left -= 1
        return {"type": "http.request", "body": b"x" * 600, "more_body": self.left > 0}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])


async def scenario() -> tuple[list[int], list[int], list[int], list[int]]:
    held = asyncio.Event()
    release = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        held.set()
        await release.wait()
        await send({"type": "http.response.start", "status": 200})

    limited = RequestSizeLimit(application, limit=LIMIT, in_flight_limit=LIMIT)
    first, second, third, large = Upload(1), Upload(1), Upload(1), Upload(2)
    holding = asyncio.create_task(limited(SCOPE, first.receive, first.send))
    await held.wait()
    await limited(SCOPE, second.receive, second.send)
    release.set()
    await holding
    await limited(SCOPE, third.receive, third.send)

    async def reader(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass

    await RequestSizeLimit(reader, LIMIT, LIMIT)(SCOPE, large.receive, large.send)
    return first.statuses, second.statuses, third.statuses, large.statuses


async def slow_scenario() -> tuple[list[int], list[int]]:
    """A refused sender goes on sending, slowly; meanwhile somebody asks without a body."""
    slow_down, sending = asyncio.Event(), asyncio.Event()

    class Slow(Upload):
        async def receive(self) -> dict[str, Any]:
            if self.left < 9:
                sending.set()
                await slow_down.wait()
            return await super().receive()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200})

    limited = RequestSizeLimit(application, limit=LIMIT, in_flight_limit=LIMIT)
    slow, probe = Slow(11), Upload(1)
    refused = asyncio.create_task(limited(SCOPE, slow.receive, slow.send))
    await sending.wait()
    await limited(SCOPE, probe.receive, probe.send)
    slow_down.set()
    await refused
    return slow.statuses, probe.statuses


def test_a_refused_sender_who_goes_on_holds_no_place() -> None:
    slow, probe = asyncio.run(slow_scenario())
    assert slow == [413]
    assert probe == [200]


def test_a_sender_who_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_size, "BODY_SECONDS", 0.05)
    monkeypatch.setattr(request_size, "DRAIN_SECONDS", 0.05)

    class Endless(Upload):
        async def receive(self) -> dict[str, Any]:
            await asyncio.Event().wait()
            raise AssertionError

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    endless = Endless(1)
    limited = RequestSizeLimit(application, limit=LIMIT, in_flight_limit=LIMIT)
    asyncio.run(limited(SCOPE, endless.receive, endless.send))
    assert endless.statuses == [408]


def test_what_does_not_fit_beside_another_upload_is_asked_to_come_later() -> None:
    first, second, third, large = asyncio.run(scenario())
    assert first == [200]
    assert second == [503]
    assert third == [200], "what has ended makes room"
    assert large == [413], "more than one request may have is not a matter of time"
