"""Runs commands in forks of itself that die at a file event or after a time; one line of JSON for every fork.

A request is {"folder", "lines", "event", "seconds"}; the answer {"status", "events"}. Importing torch takes
far longer than the commands do.
"""

import contextlib
import errno
import gc
import json
import os
import signal
import sys
import warnings
from pathlib import Path

import torch

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate")


def watch(folder: Path, last: int | None, full: int | None) -> list[str]:
    """Every change of a file inside the folder from now on; the process dies at one of them, or has no room."""
    seen: list[str] = []

    def event(name: str, arguments: tuple) -> None:
        inside = any(
            str(folder) in str(Path.cwd() / os.fsdecode(a))
            for a in arguments[:2]
            if isinstance(a, str | bytes | os.PathLike) and "__pycache__" not in str(a)
        )
        reading = name == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if name in EVENTS and inside and not reading:
            count(name)

    def count(name: str) -> None:
        seen.append(name)
        if len(seen) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        if full and len(seen) >= full and name in ("open", "os.mkdir", "fsync"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fsync = os.fsync

    def counted(number: int) -> None:
        count("fsync")
        fsync(number)

    os.fsync = counted
    sys.addaudithook(event)
    return seen


def child(request: dict, out: int, told: int) -> None:
    """Run the commands, which say what they say to `told`; writes how many file events there were."""
    from subscape.cli.main import main

    folder = Path(request["folder"])
    os.chdir(folder)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    # No file, which might not be allowed to grow.
    os.dup2(told, 2)
    seen = watch(folder / "out", request.get("event"), request.get("full"))
    if request.get("limit"):
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], resource.RLIM_INFINITY))
    if request.get("seconds"):
        # Ends the process without a word to Python.
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    status = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for line in request["lines"]:
            status = status or main(line.split())
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.write(out, str(len(seen)).encode())
    os._exit(status)


def warm(request: dict) -> int:
    """Run commands here, so that what they import is there in every fork."""
    from subscape.cli.main import main

    os.chdir(request["folder"])
    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
        return max(main(line.split()) for line in request["lines"])


def serve() -> None:
    """Answer requests until there are no more."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        if json.loads(line).get("warm"):
            print(json.dumps({"status": warm(json.loads(line)), "events": 0}), flush=True)
            # A fork that visits all objects has to copy all their pages.
            gc.freeze()
            continue
        (inlet, outlet), (heard, told) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                child(json.loads(line), outlet, told)
            finally:
                os._exit(99)
        os.close(outlet)
        os.close(told)
        _, status = os.waitpid(pid, 0)
        said = os.read(inlet, 100)
        os.close(inlet)
        Path(json.loads(line)["folder"], "said.txt").write_bytes(os.read(heard, 2**16))
        os.close(heard)
        answer = {"status": os.waitstatus_to_exitcode(status), "events": int(said or 0)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
