"""Peak memory of a piece of work, measured in a process of its own."""

import json
import math
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

GIB = 2**30


def start_peak() -> int:
    """Forget the peak so far; gives the bytes of memory this process holds now."""
    with suppress(PermissionError):  # some containers: then the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """Bytes of memory this process has held at most since `start_peak`."""
    # Not getrusage: its maximum survives exec, so a child starts with its parent's.
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


class Unknown(dict[str, float]):
    """Figures of a process that failed."""

    def __missing__(self, key: str) -> float:
        return math.nan


def in_own_process(script: str, *arguments: str) -> dict[str, float]:
    """Run a script with arguments; the last line it prints is its result as JSON.

    Where it fails, mostly for want of memory, that is told and all its figures are NaN.
    """
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        line = {"script": Path(script).name, "arguments": arguments, "exit_code": done.returncode}
        print(json.dumps(line | {"failed": done.stderr[-500:]}), flush=True)
        return Unknown()
    return json.loads(done.stdout.strip().splitlines()[-1])
