"""The server: a page, and answers to what it asks. One thread does all that touches the model, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec

from subscape._checks import optional
from subscape.explorer.guard import App, Guard
from subscape.explorer.session import Input, Moves, Session
from subscape.explorer.takeaway import Takeaway
from subscape.report.labels import Label

MOST_WAITING = 64
"""Requests that wait for the model; more are refused."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Which subnetworks are active in an input."""

    input: Input


@dataclass(frozen=True, kw_only=True)
class Push(Look):
    """Outputs of one row of an input before and after moves."""

    moves: Moves
    position: int | None = None


@dataclass(frozen=True, kw_only=True)
class Meter:
    """How far moves take rows drawn at random and the moved subnetworks' own."""

    moves: Moves


@dataclass(frozen=True, kw_only=True)
class Write(Meter):
    """How a text goes on before and after moves."""

    text: str
    n: int = 40


@dataclass(frozen=True, kw_only=True)
class Cross(Meter):
    """Two subnetworks, each pushed over its own rows and the other's."""

    first: int
    second: int


@dataclass(frozen=True, kw_only=True)
class Named:
    """A name and a note."""

    subnetwork: int
    label: Label


@dataclass(frozen=True, kw_only=True)
class Keep(Meter):
    """Write moves to disk."""

    kind: str


class Busy(RuntimeError):
    """Too many requests wait already."""


def make_app(
    session: Session,
    takeaway: Takeaway,
    page: Callable[[], str],
    *,
    token: str,
    hosts: frozenset[str],
    policy: Callable[[str], str],
) -> App:
    """The application.

    Args:
        session: what answers.
        takeaway: what keeps labels and exports.
        page: makes the page.
        token: what every request must know.
        hosts: names with port that the server goes by.
        policy: the content security policy of a page.
    """
    starlette = optional("starlette.applications", "for the explorer", "'subscape[explore]'")
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, Response
    from starlette.routing import Route

    worker = ThreadPoolExecutor(1, "subscape-explorer")
    waiting = 0

    answers: Mapping[str, tuple[type[Any], Callable[[Any], Any]]] = {
        "look": (Look, lambda a: session.look(a.input)),
        "push": (Push, lambda a: session.push(a.input, a.moves, a.position)),
        "meter": (Meter, lambda a: session.meter(a.moves)),
        "write": (Write, lambda a: session.write(a.text, a.moves, a.n)),
        "cross": (Cross, lambda a: session.cross(a.first, a.second, a.moves.deltas)),
        "label": (Named, lambda a: takeaway.label(a.subnetwork, a.label)),
        "keep": (Keep, lambda a: takeaway.keep(a.kind, a.moves)),
    }

    async def in_turn(work: Callable[[], Any]) -> Any:
        nonlocal waiting
        if waiting >= MOST_WAITING:
            raise Busy(f"{MOST_WAITING} requests wait already: ask again in a moment.")
        waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(worker, work)
        finally:
            waiting -= 1

    async def answer(request: Request) -> Response:
        known = answers.get(request.path_params["what"])
        if known is None:
            return _json({"error": f"nothing answers to {request.url.path}."}, 404)
        kind, work = known
        try:
            asked = msgspec.json.decode(await request.body(), type=kind)
            return _json(await in_turn(lambda: work(asked)))
        except Busy as error:
            return _json({"error": str(error)}, 503)
        except (ValueError, TypeError, IndexError, OSError, ImportError) as error:
            return _json({"error": str(error)}, 400)
        except Exception as error:  # of the model itself: the page says it, and goes on
            return _json({"error": f"{type(error).__name__}: {error}"}, 500)

    async def home(_: Request) -> Response:
        text = await in_turn(page)
        headers = {"content-security-policy": f"{policy(text)}; frame-ancestors 'none'"}
        return HTMLResponse(text, headers=headers)

    def _json(value: Any, status: int = 200) -> Response:
        return Response(msgspec.json.encode(value), status, media_type="application/json")

    routes = [Route("/", home), Route("/api/{what}", answer, methods=["POST"])]
    return Guard(starlette.Starlette(routes=routes), token, hosts)
