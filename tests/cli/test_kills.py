"""Killed at any moment, or out of room on the disk: a command given again goes on, the same to the bit.

Nothing is refused, and nothing that was half written stays.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from subscape._hash import raw_bytes
from subscape._io import read_metadata, read_tensors

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are POSIX")

MODULE = """
import torch
from torch import nn
from subscape.interaction_basis import Chain, Task
from subscape.interaction_basis.score import ACCURACY, Scored

def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

def model():
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    for seed, p in enumerate(net.parameters()):
        p.data = numbers(*p.shape, seed=seed)
    return net

def task():
    a, b = numbers(7, 6, seed=1, dtype=torch.float64), numbers(6, 5, seed=2, dtype=torch.float64)
    sections = (lambda x: torch.tanh(x @ a), lambda x: torch.tanh(x @ b), lambda x: x**3 + x)
    chain = Chain(("one", "two", "three", "four"), sections)
    x = numbers(60, 7, seed=3, dtype=torch.float64)
    return Task(chain, x, Scored(x, chain.outputs(x).argmax(1), ACCURACY))
"""
SIZES = "--steps 12 --batch-size 8 --n-heldout-rows 16 --rank 1 --n-subnetworks 3 --json"
DECOMPOSE = f"decompose of_kills:model --data x.safetensors --checkpoint-every 4 --log-every 3 --out out {SIZES}"
MEASURE = (
    "measure done --trust --json --out out --n-rows 24 --n-references 1 --n-top 2 --n-others 4 "
    "--n-deltas 1 --n-partners 1 --batch-size 1"
)
FINETUNE = (
    "finetune done --trust --json --out out --data y.safetensors --loss mse --steps 12 --batch-size 8 "
    "--evaluate-every 3"
)
BASIS = ["basis build c.toml --out out --trust --json"]
BASIS += [
    f"basis {stage} out --json" + " --trust" * (stage != "modules")
    for stage in ("edges", "ablate", "modules")
]
COMMANDS = {
    "decompose": [DECOMPOSE],
    "overwrite": [f"{DECOMPOSE} --seed 1 --overwrite"],
    "measure": [MEASURE],
    "finetune": [FINETUNE],
    "basis": BASIS,
}


class Killer:
    """The process that forks, and the folders that it starts from and should arrive at."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder = folder
        self.n = 0
        self.process = process
        self.start = folder / "start"
        self.start.mkdir()
        (self.start / "of_kills.py").write_text(MODULE)
        (self.start / "c.toml").write_text('task = "of_kills:task"\ntolerance = 0.02\n')
        x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
        save_file({"inputs": x}, self.start / "x.safetensors")
        save_file({"inputs": x, "labels": x[:, :3].tanh()}, self.start / "y.safetensors")
        assert self.run(self.start, [DECOMPOSE], warm=True) == (0, 0)
        (self.start / "out").rename(self.start / "done")
        for lines in ([MEASURE], [FINETUNE], BASIS):
            assert self.run(self.start, lines, warm=True) == (0, 0)
            shutil.rmtree(self.start / "out")
        self.whole: dict[str, tuple[dict, int]] = {}
        for name, lines in COMMANDS.items():
            place = self.fresh(name)
            status, events = self.run(place, lines)
            assert status == 0, name
            self.whole[name] = contents(place / "out"), events

    def fresh(self, name: str) -> Path:
        """A folder to run a command in; an earlier run of other settings is there where one is replaced."""
        self.n += 1
        place = self.folder / f"{self.n}"
        shutil.copytree(self.start, place)
        if name == "overwrite":
            shutil.copytree(place / "done", place / "out")
        return place

    def run(self, place: Path, lines: list[str], **how) -> tuple[int, int]:
        """Status and number of file events."""
        request = {"folder": str(place), "lines": lines} | how
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["status"], answer["events"]

    def check(self, name: str, **when) -> bool:
        """Kill a command, and see that given again it arrives; whether it was killed at all."""
        place = self.fresh(name)
        killed, _ = self.run(place, COMMANDS[name], **when)
        assert killed in (-9, -14, 0, 2), when
        if killed == 2:  # no room: one line, which says where
            said = (place / "said.txt").read_text()
            assert said.count("subscape: path: expected") == 1, said
            assert "Traceback" not in said
            assert "out" in said and ("No space left" in said or "too large" in said), said
            assert "Make room and give the same command again" in said, said
        status, _ = self.run(place, COMMANDS[name])
        assert status == 0, f"refused after {when}"
        found, whole = contents(place / "out"), self.whole[name][0]
        assert found.keys() == whole.keys(), when
        assert not [k for k in whole if found[k] != whole[k]], when
        shutil.rmtree(place)
        return killed != 0


def contents(folder: Path) -> dict[str, object]:
    """All files to the bit, but for the seconds that a run took."""
    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        found[name] = path.read_bytes()
        if path.suffix == ".safetensors":  # its header has no order
            tensors = read_tensors(path)
            found[name] = {k: (v.dtype, v.shape, bytes(raw_bytes(v))) for k, v in tensors.items()}
            found[f"{name} says"] = read_metadata(path)
        if name == "final/config.json":
            config = json.loads(path.read_text())
            config.get("metrics", {}).pop("seconds", None)
            found[name] = config
    return found


@pytest.fixture(scope="module")
def killer(tmp_path_factory):
    program = [sys.executable, str(Path(__file__).with_name("killed.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    # A process whose gradients have run on an accelerator cannot be forked.
    cpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(program, text=True, env=cpu, **pipes) as process:
        yield Killer(tmp_path_factory.mktemp("kills"), process)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_killed_at_some_file_events(killer, name):
    events = killer.whole[name][1]
    assert events > 20
    step = max(1, events // 4)
    assert all(killer.check(name, event=n) for n in range(2, events + 1, step))


@pytest.mark.parametrize("name", list(COMMANDS))
def test_killed_at_some_moment(killer, name):
    killer.check(name, seconds=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMMANDS))
def test_killed_at_every_file_event(killer, name):
    events = killer.whole[name][1]
    assert all(killer.check(name, event=n) for n in range(1, events + 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMMANDS))
def test_killed_at_many_moments(killer, name):
    draw = random.Random(name)
    killed = sum(killer.check(name, seconds=draw.uniform(0.01, 0.8)) for _ in range(60))
    assert killed > 20


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_disk_that_is_full_from_some_moment_on(killer, name):
    events = killer.whole[name][1]
    for n in range(1, events + 1, max(1, events // 3)):
        killer.check(name, full=n)
    killer.check(name, limit=500)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_disk_that_is_full_from_any_moment_on(killer, name):
    events = killer.whole[name][1]
    stopped = sum(killer.check(name, full=n) for n in range(1, events + 1))
    assert stopped > events / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMMANDS))
def test_files_that_may_not_grow(killer, name):
    for limit in (1, 30, 100, 200, 300, 700, 1000, 1500, 2000, 3000, 5000):
        killer.check(name, limit=limit)
