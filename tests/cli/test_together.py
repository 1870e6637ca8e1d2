"""Commands on several processes, started as users start them."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from subscape.cli.main import main
from subscape.subnetworks.decomposition import Decomposition

MODULE = """
import os
from pathlib import Path
import torch
from torch import nn

def model():
    Path("pid-" + os.environ.get("RANK", "alone")).write_text(str(os.getpid()))
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()

def data():
    return torch.randn(200, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
"""
COMMAND = "decompose of_together:model --data of_together:data --n-subnetworks 4 --l0 1 --rank 1 --engine rule"
STEPS = "--steps 300 --batch-size 32 --checkpoint-every 20 --n-heldout-rows 20"


def started(folder, n, out):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    words = ["-m", "subscape", *f"{COMMAND} {STEPS} --out {out}".split()]
    return subprocess.Popen(
        [sys.executable, *(launcher if n > 1 else []), *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_process_that_dies_ends_all_and_another_number_goes_on(tmp_path):
    (tmp_path / "of_together.py").write_text(MODULE)
    alone = started(tmp_path, 1, "alone")
    said, complaints = alone.communicate()
    assert alone.returncode == 0, complaints
    several = started(tmp_path, 2, "several")
    deadline = time.monotonic() + 300
    while not (tmp_path / "several" / "checkpoint.safetensors").exists():
        assert several.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)
    _, complaints = several.communicate(timeout=300)
    assert several.returncode != 0
    assert "Signal 9 (SIGKILL)" in complaints
    assert not (tmp_path / "several" / "final").exists()
    again = started(tmp_path, 1, "several")
    assert again.communicate() == (said.replace("alone", "several"), "")
    results = [
        Decomposition.from_pretrained(tmp_path / out / "final").dictionary.state_dict()
        for out in ("alone", "several")
    ]
    for name, values in results[0].items():
        torch.testing.assert_close(results[1][name], values, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_several_processes_say_what_one_says(tmp_path):
    (tmp_path / "of_together.py").write_text(MODULE)
    processes = started(tmp_path, 1, "runs-1"), started(tmp_path, 2, "runs-2")
    one, several = (process.communicate()[0] for process in processes)
    assert several.replace("runs-2", "runs-1") == one


def test_other_commands_are_for_one_process(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["measure", "somewhere"]) == 2
    assert capsys.readouterr().err == (
        "subscape (process 1): command: expected decompose, with several processes; got 'measure'. "
        "Start it once.\n"
    )
