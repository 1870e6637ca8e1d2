"""Several processes get what one gets: one command, whatever it is started by, and resumed by another number."""

import json
import os
import subprocess
import sys

import pytest
import torch
from filelock import FileLock

from subscape._io import read_metadata
from subscape.subnetworks.decomposition import Decomposition
from subscape.training import checkpoint
from tests.training.together import CASES, decomposed, half

QUICK = (20, (2,))
LONG = (200, (2, 4))


@pytest.fixture(
    scope="module",
    params=[QUICK, pytest.param(LONG, marks=pytest.mark.slow)],
    ids=["quick", "long"],
)
def folder(request, tmp_path_factory):
    """Results of one process and of several."""
    steps, sizes = request.param
    # One for all workers of the test run, whichever comes first.
    path = shared_by_workers(tmp_path_factory) / f"together-{steps}"
    with FileLock(f"{path}.lock"):
        if not (path / "done").exists():
            run_together(path, steps, sizes)
            (path / "done").touch()
    return path


def shared_by_workers(tmp_path_factory):
    """The temporary folder of the whole test run."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def run_together(path, steps, sizes):
    path.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "error", "-m", "tests.training.together", str(path)]
    command += map(str, [steps, 1, *sizes])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def load(path):
    return Decomposition.from_pretrained(path)


def close(found, expected, case):
    exact = 1e-5 if "float32" in case else 1e-10
    theirs = expected.dictionary.state_dict()
    for name, values in found.dictionary.state_dict().items():
        # By length: Adam moves an entry whose slope is mere rounding as far as all others.
        assert (values - theirs[name]).norm() <= exact * theirs[name].norm(), name
    for name in ("fvu", "l0", "fvu_row_by_row", "fvu_of_restarts", "dead", "heldout_rows"):
        assert found.metrics[name] == pytest.approx(expected.metrics[name], rel=exact), name


@pytest.mark.parametrize("case", CASES)
def test_several_processes_get_what_one_gets(folder, case):
    expected = load(folder / "1-0" / case)
    several = [path for path in folder.glob("[2-9]-*") if path.is_dir()]
    assert len(several) >= 2
    for path in several:
        close(load(path / case), expected, case)


@pytest.mark.parametrize("case", CASES)
def test_all_processes_have_the_same_to_the_bit(folder, case):
    for path in folder.glob("[2-9]-[1-9]"):
        first = load(path.with_name(f"{path.name[0]}-0") / case).dictionary.state_dict()
        for name, values in load(path / case).dictionary.state_dict().items():
            assert torch.equal(values, first[name])


def test_a_run_goes_on_with_another_number_of_processes(folder):
    expected = load(folder / "1-0" / "whitened")
    resumed = list(folder.glob("*/of-*"))
    assert len(resumed) == 3  # several of one, one of several
    for path in resumed:
        close(load(path), expected, "whitened")


def test_the_first_process_alone_writes(folder):
    names = {"checkpoint.safetensors", "metrics.jsonl"}
    for path in folder.glob("half-on-*"):
        assert {each.name for each in path.iterdir()} == names
    lines = (folder / "half-on-2" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len((folder / "half-on-1" / "metrics.jsonl").read_text().splitlines())


def test_a_checkpoint_that_has_the_metric_by_its_hash_goes_on_too(tmp_path, monkeypatch, unchecked):
    def half_by(identity, folder):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "_identity", identity)
            half("whitened", 8, folder)

    identity = checkpoint._identity
    half_by(lambda trainer, **_: identity(trainer, hashed=True), tmp_path)
    said = json.loads(read_metadata(tmp_path / checkpoint.NAME)["state"])
    assert said["geometry"][0].startswith("SHA-256 ")
    assert decomposed("whitened", 8, tmp_path).metrics["steps"] == 8
    # That of another metric does not.
    other = tmp_path / "other"
    half_by(lambda t, **_: identity(t) | {"geometry": ["kronecker, power 0.4"]}, other)
    with pytest.raises(ValueError, match="^geometry: expected .*power 0.4"):
        decomposed("whitened", 8, other)
