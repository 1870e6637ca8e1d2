"""One process at a time in a folder, so that none reads or writes what another has half done.

The operating system holds the lock and drops it when the process ends, however it ends: the file `.lock`
that a killed process leaves stands for nothing, and goes with the next one that is done; what it left half
written goes when the next one begins.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from subscape._checks import problem
from subscape._io import LOCK, remove_half_written, writable


@contextmanager
def locked(folder: str | Path | None) -> Generator[None]:
    """Have a folder to oneself; a function that has may call others that want it too.

    Args:
        folder: made if need be, and removed again if nothing was written there; None needs no lock.

    Yields:
        Nothing.

    Raises:
        BlockingIOError: at once, if another process or thread has it.
    """
    if folder is None:
        yield
        return
    with writable(folder):
        path = Path(folder).resolve() / LOCK
        new = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        # One lock per path and thread, which counts how often it is held.
        lock = FileLock(path, blocking=False, is_singleton=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise BlockingIOError(
                problem(
                    "folder",
                    "one that nobody else is writing to",
                    f"{folder}, which another process has in use",
                    "Wait until it is done, or choose another folder.",
                )
            ) from error
    try:
        if lock.lock_counter == 1:
            remove_half_written(path.parent)
        yield
    finally:
        if lock.lock_counter == 1:
            # While it is still held: removed later it might be that of the next one.
            with suppress(OSError):
                path.unlink()
        lock.release()
        if new:
            with suppress(OSError):
                path.parent.rmdir()
