"""How long the explorer takes to answer over HTTP, as its page asks it, beside busy cores.

    python benchmarks/explore.py RUN [--busy 2] [--n 200]

`slider to new bars` is a request for the outputs of one row under new deltas; `40 new tokens` the continuation
of a text that was not asked for before, moved; `encode 16 tokens` which subnetworks are active in a text.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import threading
import time
import urllib.request
from pathlib import Path

import torch

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


def asked(address: str, what: str, body: dict) -> tuple[float, dict]:
    """Milliseconds until an answer has come whole, and the answer."""
    headers = {"content-type": "application/json", "x-token": TOKEN}
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/api/{what}", data, headers)
    start = time.perf_counter()
    with urllib.request.urlopen(request) as response:
        answer = json.loads(response.read())
    return 1000 * (time.perf_counter() - start), answer


def figures(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "n": len(times),
        "median_ms": round(statistics.median(ordered), 1),
        "p95_ms": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--busy", type=int, default=2, help="cores kept busy by others")
    parser.add_argument(
        "--n", type=int, default=200, help="requests for bars; a tenth of the others"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    address, session = serve(options.run)
    n_subnetworks = len(session.measures)
    strong = [e.index for e in session.measures.ranked()[:8]]

    def moves(i: int) -> dict:
        return {"deltas": {str(k): 0.01 * (i + 1) + 0.1 * k for k in strong[: 1 + i % 3]}}

    asked(address, "look", {"input": {"text": TEXT}})  # the first does what is done once
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(options.busy)]
    for other in others:
        other.start()
    try:
        given = {"input": {"text": TEXT}}
        bars = [asked(address, "push", given | {"moves": moves(i)})[0] for i in range(options.n)]
        few = max(5, options.n // 10)
        meter = [asked(address, "meter", {"moves": moves(i)})[0] for i in range(few)]
        words = ("was", "had", "saw", "ran", "said", "took", "made", "went", "came", "found")
        text = [f"{TEXT} {word}" for word in words]
        write = [
            asked(address, "write", {"text": text[i % 10], "moves": moves(1000 + i), "n": 40})[0]
            for i in range(few)
        ]
        look, n_tokens = [], 0
        for _ in range(few):
            took, answer = asked(address, "look", given)
            look.append(took)
            n_tokens = len(answer["tokens"])
    finally:
        for other in others:
            other.terminate()
    found = {
        "subnetworks": n_subnetworks,
        "slider to new bars": figures(bars),
        "meter of 64 rows and own ones": figures(meter),
        "40 new tokens, before and after": figures(write),
        f"encode {n_tokens} tokens": figures(look),
    }
    if options.json:
        print(json.dumps(found))
        return
    cores = os.cpu_count()
    print(
        f"{platform.machine()}, {cores} cores, {options.busy} kept busy by others, torch {torch.__version__}"
    )
    print(f"{n_subnetworks} subnetworks")
    for what, took in found.items():
        if isinstance(took, dict):
            print(
                f"{what:<34} median {took['median_ms']:>7} ms  p95 {took['p95_ms']:>7} ms  n {took['n']}"
            )


if __name__ == "__main__":
    main()
