"""Who is let in: only pages that this server itself gave to somebody who knows its token.

A browser lets any page send requests to this computer. Such a request names another origin, or, after its name
was rebound to 127.0.0.1, another host; and it does not know the token.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

MOST_BYTES = 64 * 1024
"""Of the body of a request."""
TOKEN = "token"
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SAFE = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Headers of every answer."""


@dataclass(frozen=True)
class Guard:
    """Answers wrong requests itself and hands on the others."""

    app: App
    """What they are handed on to."""
    token: str
    """What the address must hold, or the header `x-token`."""
    hosts: frozenset[str]
    """Names with port that this server goes by."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "no websockets here"})
            return
        refusal = self.refusal(scope) or await _too_much(scope, receive)
        if isinstance(refusal, bytes):
            body = refusal
            await self.app(scope, _once(body), _with_headers(send))
            return
        status, why = refusal
        await _answer(status, why, _with_headers(send))

    def refusal(self, scope: Message) -> tuple[int, str] | None:
        """Status and reason, if the request is not let in."""
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        host = headers.get("host", "")
        if host not in self.hosts:
            return 421, f"host: expected {' or '.join(sorted(self.hosts))}; got {host!r}."
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{name}" for name in self.hosts}:
            return 403, f"origin: expected this page's own; got {origin!r}."
        asked = parse_qs(scope["query_string"].decode("latin-1")).get(TOKEN, [""])[0]
        given = headers.get("x-token", "") if scope["path"].startswith("/api/") else asked
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return (
                403,
                "token: expected the one in the address that the command printed; got another or none.",
            )
        json_body = headers.get("content-type", "").split(";")[0] == "application/json"
        if scope["method"] == "POST" and not json_body:
            return 415, "content-type: expected application/json."
        return None


async def _too_much(scope: Message, receive: Receive) -> tuple[int, str] | bytes:
    """The body, or a refusal if it is longer than any that the page sends."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return 413, f"body: expected at most {MOST_BYTES:,} bytes; got more. Shorten the text."
        if not message.get("more_body"):
            return body


def _once(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = [(k.encode(), v.encode()) for k, v in SAFE.items()]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sent


async def _answer(status: int, why: str, send: Send) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": why}).encode()})
