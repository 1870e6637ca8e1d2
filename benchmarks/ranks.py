"""Two processes with a thread each against one, with as many rows for each: weak scaling.

Prints one JSON line per shape; README.md says how to read it.

    python benchmarks/ranks.py [--processes N] [--repetitions N] [SHAPE ...]
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from statistics import median

import torch
from _lib.shapes import SHAPES, Shape
from torch import distributed

from subscape import GradientSource, Target
from subscape._ranks import Ranks, launched
from subscape.training import Trainer, TrainingConfig

DEFAULT = ("stories260k", "resnet20")
STEPS = 10


def trainer_of(shape: Shape, ranks: Ranks, rows: int) -> Trainer:
    """A trainer past the dense warm-up that shares its rows."""
    kind = "sample" if shape.rows == "sample" else "token"
    source = GradientSource(
        Target(shape.model, shape.parameters),
        shape.data,
        divergence="kl",
        rows=kind,
        row_weight=0.5,
        ranks=ranks,
    )
    config = TrainingConfig(
        n_subnetworks=shape.n_subnetworks,
        rank=shape.rank,
        batch_size=rows * ranks.size,
        dense_warmup=0.0,
        resample_every=0,
    )
    return Trainer([source], config)


def point(name: str, rows: int, repetitions: int) -> None:
    """Seconds of a step by the clock, and of processor time of the process that takes most."""
    torch.set_num_threads(1)
    shape = SHAPES[name]()
    assert shape is not None
    with launched(torch.device("cpu")) as (ranks, _):
        trainer = trainer_of(shape, ranks, rows)
        trainer.step()
        walls, cpus, moved = [], [], counted()
        for _ in range(repetitions):
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(STEPS):
                trainer.step()
            walls.append((time.perf_counter() - wall) / STEPS)
            own = torch.zeros(ranks.size, dtype=torch.float64)
            own[ranks.rank] = (time.process_time() - cpu) / STEPS
            cpus.append(ranks.summed(own).max().item())
        if ranks.first:
            figures = {"wall": median(walls), "cpu": median(cpus)}
            moved_a_step = sum(moved) / STEPS / repetitions
            print(json.dumps(figures | {"rows": trainer.config.batch_size, "moved": moved_a_step}))


def counted() -> list[int]:
    """Bytes of every tensor that is summed over processes from now on."""
    moved: list[int] = []
    original = distributed.all_reduce

    def all_reduce(tensor: torch.Tensor) -> None:
        moved.append(tensor.numel() * tensor.element_size())
        original(tensor)

    distributed.all_reduce = all_reduce
    return moved


def together(n: int, name: str, rows: int, repetitions: int) -> dict[str, float]:
    """The figures of n processes, of which the first one tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    command = [sys.executable, __file__, "--point", name, str(rows), str(repetitions)]
    started = [
        subprocess.Popen(
            command,
            env=os.environ | address | {"RANK": str(rank), "WORLD_SIZE": str(n)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(n)
    ]
    said = [process.communicate()[0] for process in started]
    assert not any(process.returncode for process in started)
    return json.loads(said[0].strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rows", type=int, default=256, help="of a process")
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("shapes", nargs="*", default=DEFAULT)
    given = parser.parse_args()
    if given.point:
        name, rows, repetitions = given.point
        point(name, int(rows), int(repetitions))
        return
    for name in given.shapes:
        if SHAPES[name]() is None:
            print(json.dumps({"shape": name, "skipped": "set SUBSCAPE_DATA"}), flush=True)
            continue
        one, several = (
            together(n, name, given.rows, given.repetitions) for n in (1, given.processes)
        )
        line = {
            "benchmark": "ranks",
            "shape": name,
            "processes": given.processes,
            "rows": [one["rows"], several["rows"]],
            "ms": [round(1e3 * each["cpu"], 1) for each in (one, several)],
            "wall_ms": [round(1e3 * each["wall"], 1) for each in (one, several)],
            "rows_per_second": [round(each["rows"] / each["wall"]) for each in (one, several)],
            "speedup": round(several["rows"] / several["wall"] * one["wall"] / one["rows"], 2),
            "speedup_of_processor": round(
                several["rows"] / several["cpu"] * one["cpu"] / one["rows"], 2
            ),
            "summed_mib": round(several["moved"] / 2**20, 2),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
