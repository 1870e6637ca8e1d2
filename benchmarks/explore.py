"""How long the explorer takes to answer over HTTP, as its page asks it, beside busy cores.

    .venv/bin/python benchmarks/explore.py RUN --busy 2

Wall-clock milliseconds, and those of the processor, which other load does not change. `slider to new bars`: the
outputs of one row under deltas that are new. `meter`: how far 64 rows drawn at random and the moved subnetworks'
own move, beside random directions. `40 new tokens`: how a text goes on under new deltas; before and after where
the text is new too. `encode`: what is active in a text.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import threading
import time
import urllib.request
from pathlib import Path

from subscape.cli.names import token_namer
from subscape.cli.run_folder import open_run
from subscape.explorer.page import explorer_page, policy_of
from subscape.explorer.serve import HOST, listening
from subscape.explorer.server import make_app
from subscape.explorer.session import Session
from subscape.explorer.takeaway import Takeaway

TEXT = "Once upon a time, there was a little girl named Lily. She"
TOKEN = "benchmark"


def spin() -> None:
    """Keep a core busy."""
    while True:
        sum(range(10_000))


def serve(run: Path):
    """A server in a thread; its address and the session."""
    import uvicorn

    opened = open_run(run)
    tokenizer = opened.tokenizer()
    names = token_namer(tokenizer)
    session = Session(
        *(opened.decomposition, opened.target(), opened.load_measures(), opened.samples()),
        tokenizer=tokenizer,
        token_name=names,
        output_name=names,
    )
    takeaway = Takeaway(session, None)
    place = listening(0)
    host = f"{HOST}:{place.getsockname()[1]}"

    def page() -> str:
        return explorer_page(session, takeaway, "benchmark", str(run))

    app = make_app(session, takeaway, page, token=TOKEN, hosts=frozenset({host}), policy=policy_of)
    config = uvicorn.Config(app, log_level="error", lifespan="off")
    threading.Thread(target=uvicorn.Server(config).run, args=([place],), daemon=True).start()
    return f"http://{host}", session


def asked(address: str, what: str, body: dict) -> tuple[float, float, dict]:
    """Milliseconds by the clock and of the processor until an answer has come whole, and the answer."""
    headers = {"content-type": "application/json", "x-token": TOKEN}
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/api/{what}", data, headers)
    start, spent = time.perf_counter(), time.process_time()
    with urllib.request.urlopen(request) as response:
        answer = json.loads(response.read())
    return 1000 * (time.perf_counter() - start), 1000 * (time.process_time() - spent), answer


def figures(times: list[float], spent: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "n": len(times),
        "median_ms": round(statistics.median(ordered), 1),
        "p95_ms": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 1),
        "processor_ms": round(statistics.median(spent), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", help="a measured run of a language model")
    parser.add_argument("--busy", type=int, default=2, help="processes that only keep cores busy")
    parser.add_argument("--n", type=int, default=200, help="requests for bars; a tenth of others")
    options = parser.parse_args()
    if options.run is None:
        print(json.dumps({"part": "explorer", "failed": "give the folder of a measured run"}))
        return
    address, session = serve(options.run)
    strong = [e.index for e in session.measures.ranked()[:8]]

    def moves(i: int) -> dict:
        return {"deltas": {str(k): 0.01 * (i + 1) + 0.1 * k for k in strong[: 1 + i % 3]}}

    given, few = {"input": {"text": TEXT}}, max(10, options.n // 10)
    n_tokens = len(asked(address, "look", given)[-1]["tokens"])  # plans engines, once
    asked(address, "write", {"text": TEXT, "moves": {}, "n": 40})
    parts = {
        "slider to new bars": [("push", given | {"moves": moves(i)}) for i in range(options.n)],
        "meter": [("meter", {"moves": moves(i)}) for i in range(few)],
        "40 new tokens": [
            ("write", {"text": TEXT, "moves": moves(1000 + i), "n": 40}) for i in range(few)
        ],
        "40 new tokens before and after": [
            ("write", {"text": f"{TEXT} {i}", "moves": moves(i), "n": 40}) for i in range(few)
        ],
        f"encode {n_tokens} tokens": [("look", given)] * few,
        "encode a length not seen": [
            ("look", {"input": {"text": TEXT + " a" * (i + 1)}}) for i in range(few)
        ],
    }
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(options.busy)]
    for other in others:
        other.start()
    try:
        for part, requests in parts.items():
            times, spent, _ = zip(*(asked(address, *request) for request in requests), strict=True)
            here = {"cores": os.cpu_count(), "busy": options.busy, "load": os.getloadavg()[0]}
            about = {"part": part, "subnetworks": len(session.measures), **here}
            print(json.dumps(about | figures(list(times), list(spent))), flush=True)
    finally:
        for other in others:
            other.terminate()


if __name__ == "__main__":
    main()
