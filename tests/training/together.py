"""Decompositions on several processes, which are forks of one: importing torch takes far longer than they do.

python -m tests.training.together FOLDER STEPS 1 2 4
"""

import gc
import os
import shutil
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from subscape._ranks import launched
from subscape.subnetworks.decomposition import Decomposition
from subscape.training import Trainer
from subscape.training.decompose import decompose
from tests.conftest import Made

SETTINGS = {
    "n_subnetworks": 6,
    "rank": 1,
    "l0": 2.0,
    "batch_size": 64,
    "n_heldout_rows": 96,
    "progress": False,
}
TOKENS = {"rows": "token", "divergence": "kl", "batch_size": 96}
SAMPLES = {"rows": "sample", "divergence": "mse"}
CASES = {
    "whitened": TOKENS,
    "whitened, jumprelu": {**TOKENS, "selection": "jumprelu"},
    "published": {**SAMPLES, "recipe": "published", "n_restarts": 2},
    "published, jumprelu": {**SAMPLES, "recipe": "published", "selection": "jumprelu"},
    "dense": {**SAMPLES, "engine": "jacobian", "consolidate": True},
    "groups": {**SAMPLES, "group_size": 2, "l0": 1.0},
    "few": {**SAMPLES, "batch_size": 8},
    "parts": {**TOKENS, "micro_batch_size": 24},
    "float32": {**TOKENS, "dtype": torch.float32},
}
"""All in float64 but the last. Of `few` one process has rows and the others none; of `parts`, the rows of each are
made in parts."""


def model_and_data(rows: str) -> tuple[nn.Module, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    if rows == "sample":
        net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))
        return net, torch.randn(160, 5, generator=generator, dtype=torch.float64)
    words = Made(
        lambda self, ids: self.head(torch.tanh(self.middle(self.table(ids).cumsum(1)))),
        table=nn.Embedding(29, 5),
        middle=nn.Linear(5, 5),
        head=nn.Linear(5, 29),
    )
    return words, torch.randint(0, 29, (160, 3), generator=generator)


def decomposed(case: str, steps: int, out: Path | None = None) -> Decomposition:
    """One of the cases, on all processes there are."""
    every = {"steps": steps, "resample_every": steps // 10, "checkpoint_every": steps // 4}
    every["log_every"] = every["checkpoint_every"]
    options = {"engine": "rule", **SETTINGS, **every, **CASES[case]}
    dtype = options.pop("dtype", torch.float64)
    model, data = model_and_data(options["rows"])
    if data.is_floating_point():
        data = data.to(dtype)
    return decompose(model.to(dtype), data, out=out, **options)


class Stopped(Exception):
    """Stands for whatever ends a run."""


def half(case: str, steps: int, out: Path) -> None:
    """A run that ends on all processes between two of its checkpoints."""
    original = Trainer.step

    def step(self):
        if self.step_number == steps // 2 + 3:
            raise Stopped
        return original(self)

    Trainer.step = step
    try:
        decomposed(case, steps, out)
    except Stopped:
        pass
    finally:
        Trainer.step = original


def work(folder: Path, steps: int) -> None:
    """What one of the processes does; each saves its own results, to be compared."""
    with launched(torch.device("cpu")) as (ranks, _):
        mine = folder / f"{ranks.size}-{ranks.rank}"
        half("whitened", steps, folder / f"half-on-{ranks.size}")
        for case in CASES:
            save(decomposed(case, steps), mine / case)


def resume(folder: Path, steps: int, begun_on: int) -> None:
    """Go on with a copy of what other processes began."""
    with launched(torch.device("cpu")) as (ranks, _):
        mine, copy = f"{ranks.size}-{ranks.rank}", folder / f"run-{begun_on}-on-{ranks.size}"
        if ranks.first:
            shutil.copytree(folder / f"half-on-{begun_on}", copy)
        save(decomposed("whitened", steps, copy), folder / mine / f"of-{begun_on}")


def save(result: Decomposition, path: Path) -> None:
    result = replace(result, metrics={k: v for k, v in result.metrics.items() if k != "seconds"})
    path.parent.mkdir(exist_ok=True)
    result.save_pretrained(path)


def start(n: int, do: Callable[..., None], *arguments: object) -> None:
    """Do something in n forks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A fork that visits all objects has to copy all their pages.
    gc.freeze()
    pids = []
    for rank in range(n):
        pids.append(os.fork())
        if pids[-1] == 0:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(n), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            status = 1
            try:
                do(*arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
    failed = [pid for pid in pids if os.waitpid(pid, 0)[1] != 0]
    assert not failed


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "batch_size: its 8 rows are 1 groups")
    path, n_steps, *sizes = Path(sys.argv[1]), *map(int, sys.argv[2:])
    for size in sizes:
        start(size, work, path, n_steps)
    start(1, resume, path, n_steps, max(sizes))
    start(2, resume, path, n_steps, 1)
