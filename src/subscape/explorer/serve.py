"""`explore`: serve the explorer on this computer until it is stopped."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from subscape._checks import optional, problem, require
from subscape.data import as_samples
from subscape.explorer.beside import Beside, beside
from subscape.explorer.inputs import Namer
from subscape.explorer.page import explorer_page, policy_of
from subscape.explorer.server import make_app
from subscape.explorer.session import Session
from subscape.explorer.takeaway import Takeaway
from subscape.measures.measure import measure
from subscape.measures.record import Measures
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Outputs, Target

HOST = "127.0.0.1"
"""This computer; no other can reach it."""
PORT = 8123
N_PORTS = 20
"""To try, if none is asked for."""


def explore(
    decomposition: Decomposition,
    model: nn.Module | Target,
    data: Any,
    measures: Measures | None = None,
    *,
    outputs: Outputs | None = None,
    tokenizer: Any = None,
    token_names: Namer | None = None,
    output_names: Namer | None = None,
    folder: str | Path | None = None,
    other: Beside | None = None,
    title: str | None = None,
    command: str = "RUN",
    port: int | None = None,
    open_browser: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Explore a decomposition in a browser, on 127.0.0.1 only, until interrupted. Needs the extra `explore`.

    Args:
        decomposition: the subnetworks.
        model: the model they are of, or its `Target`; never changed.
        data: samples, best not those trained on.
        measures: their measures; made if not given.
        outputs: as for `Target`; to be given again where the decomposition was made with a function.
        tokenizer: of a causal language model, to type texts for it.
        token_names: text of an input token.
        output_names: name of an output.
        folder: where names, notes and exports go, usually the run's.
        other: another run over the same parameters, to compare with.
        title: headline.
        command: the run on a command line, in the commands that the page offers.
        port: where to listen; by default the first free one from 8123.
        open_browser: open the page.
        say: what tells the address.
    """
    uvicorn = optional("uvicorn", "for the explorer", "'subscape[explore]'")
    optional("starlette", "for the explorer", "'subscape[explore]'")
    target = model if isinstance(model, Target) else decomposition.target_in(model, outputs=outputs)
    decomposition.verify(target)
    samples = as_samples(data)
    names = token_names or _decoded(tokenizer)
    found = measures or measure(
        decomposition, target, samples, token_names=names, output_names=output_names or names
    )
    session = Session(
        decomposition,
        target,
        found,
        samples,
        tokenizer=tokenizer,
        token_name=names,
        output_name=output_names or (names if tokenizer is not None else None),
    )
    takeaway = Takeaway(session, None if folder is None else Path(folder))
    takeaway.labels()  # damaged ones are refused now
    compared = None if other is None else beside(session.decomposition, found, other)
    place = listening(port)
    number, token = place.getsockname()[1], secrets.token_urlsafe(24)
    app = make_app(
        session,
        takeaway,
        lambda: explorer_page(session, takeaway, title or _title(decomposition), command, compared),
        token=token,
        hosts=frozenset({f"{HOST}:{number}", f"localhost:{number}"}),
        policy=policy_of,
    )
    address = f"http://{HOST}:{number}/?token={token}"
    say(address)
    if open_browser:
        webbrowser.open(address)
    config = uvicorn.Config(
        app,
        log_level="error",
        lifespan="off",
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=2,
    )
    with place, suppress(KeyboardInterrupt):  # which is how one ends it
        uvicorn.Server(config).run(sockets=[place])


def listening(port: int | None) -> socket.socket:
    """A socket on this computer at a port, or at the first free one."""
    if port is not None:
        require(0 <= port < 2**16, "port", "a port from 0 (any) to 65535", port)
    ports = range(PORT, PORT + N_PORTS) if port is None else [port]
    for number in ports:
        place = socket.socket()
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((HOST, number))
            place.listen()  # who is faster than the server waits
        except OSError:
            place.close()
            continue
        return place
    expected = "a port that is free and may be used"
    raise ValueError(problem("port", expected, f"{ports[0]}", "Take --port 0 for any free one."))


def _decoded(tokenizer: Any) -> Namer | None:
    return None if tokenizer is None else lambda i: tokenizer.decode([i])


def _title(decomposition: Decomposition) -> str:
    return f"{decomposition.target['model'].split('.')[-1]} · {len(decomposition)} subnetworks"
