"""The front door: what it sets aside, passes on and leaves alone."""

import importlib
import random

import jaxtyping
import numpy
import pytest
import torch
from torch import nn

from subscape import Decomposition, FixedOutput, Pairs, Target, TrainingConfig, decompose
from subscape.training import run as run_module
from tests.test__progress import Terminal

SMALL = {
    "n_subnetworks": 3,
    "rank": 1,
    "active_fraction": 0.5,
    "steps": 6,
    "batch_size": 8,
    "n_heldout_rows": 16,
    "progress": False,
}


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3))


@pytest.fixture
def data():
    return torch.randn(50, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def sources(monkeypatch):
    """The sources that training is given, in place of training."""
    given = []

    def train(source, heldout, config, **options):
        given.extend([source, heldout])
        return original(source, heldout, config, **options)

    module = importlib.import_module("subscape.training.decompose")
    original = module.train
    monkeypatch.setattr(module, "train", train)
    return given


def test_a_tenth_is_set_aside_and_never_trained_on(model, data, sources):
    decompose(model, data, **SMALL)
    source, heldout = sources
    assert (len(source), len(heldout)) == (45, 5)
    whole = torch.cat([source.data, heldout.data])
    assert torch.equal(whole.sort(0).values, data.sort(0).values)
    assert not any((source.data == row).all(1).any() for row in heldout.data)
    assert source.seed != heldout.seed
    # Drawn, not cut off the end.
    assert not torch.equal(heldout.data.sort(0).values, data[-5:].sort(0).values)


def test_heldout_data_of_their_own_leave_all_data_to_training(model, data, sources):
    decompose(model, data[:40], heldout=data[40:], **SMALL)
    source, heldout = sources
    assert torch.equal(source.data, data[:40])
    assert torch.equal(heldout.data, data[40:])


@pytest.mark.parametrize("n", [4, 9, 24])
def test_at_least_two_samples_are_held_out(model, data, sources, n):
    decompose(model, data[:n], **SMALL | {"batch_size": 2})
    assert [len(s) for s in sources] == [n - 2, 2]


def test_pairs_stay_with_their_samples_when_some_are_held_out(model, data, sources):
    # The pair of every sample holds the sample's own first three inputs.
    decompose(model, data, reference=Pairs(data[:, :3]), **SMALL)
    for source in sources:
        rows = source.rows(0, 4)
        reference = source.reference(source.outputs_at(rows), rows)
        assert torch.equal(reference, source.data[rows.samples][:, :3])


def test_settings_go_on_top_of_a_config(model, data):
    config = TrainingConfig(n_subnetworks=7, steps=3, batch_size=8, rank=1)
    result = decompose(model, data, config=config, steps=4, progress=False)
    assert len(result) == 7
    assert result.metrics["steps"] == 4
    assert result.settings["steps"] == 4
    assert config.steps == 3


def test_the_settings_say_how_it_was_made(model, data, tmp_path):
    def own(outputs, reference):
        return (outputs - reference).abs().sum(1)

    result = decompose(
        model, data, divergence=own, reference=FixedOutput(torch.ones(3)), **SMALL | {"seed": 3}
    )
    found = result.settings
    assert found["divergence"].endswith("own")
    assert found["reference"].startswith("FixedOutput(output=")
    assert found["rows"] == "sample"
    assert found["engine"] == "jacobian"  # what auto chose
    assert found["seed"] == 3
    assert Decomposition.from_pretrained(result.save_pretrained(tmp_path / "a")).settings == found


def test_a_target_is_taken_as_it_is(model, data):
    result = decompose(Target(model, "2.*"), data, **SMALL)
    assert result.layout.names == ["2.weight", "2.bias"]
    assert [t.ranks for t in result.layout.tensors] == [(1, 1), (3,)]


def test_progress_is_shown_only_when_asked_and_in_a_terminal(model, data, capsys, monkeypatch):
    decompose(model, data, **SMALL)
    decompose(model, data, **SMALL | {"progress": True})
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    decompose(model, data, **SMALL | {"progress": True})
    assert "decompose" in terminal.getvalue()
    assert "fvu" in terminal.getvalue()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("engine", ["jacobian", "vmap", "loop"])
def test_no_global_random_state_is_touched(model, data, engine, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its checks draw samples
    states = torch.get_rng_state(), numpy.random.get_state()[1].copy(), random.getstate()
    decompose(model, data, engine=engine, **SMALL | {"resample_every": 2})
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (numpy.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_no_global_random_state_is_used(model, data):
    before = data.clone()
    one = decompose(model, data, **SMALL)
    torch.manual_seed(2)
    other = decompose(model, data, **SMALL)
    assert torch.equal(one.decoder.weights, other.decoder.weights)
    # Data are left as they were, too.
    assert torch.equal(data, before)
    assert not data.requires_grad


def test_an_exception_leaves_no_result(model, data, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("full disk")

    monkeypatch.setattr(run_module, "evaluate_together", broken)
    with pytest.raises(RuntimeError, match="full disk"):
        decompose(model, data, out=tmp_path, **SMALL)
    assert not (tmp_path / "final").exists()


def test_a_final_folder_that_is_no_runs_is_not_replaced(model, data, tmp_path):
    theirs = tmp_path / "final" / "thesis.txt"
    theirs.parent.mkdir()
    theirs.write_text("years of work")
    with pytest.raises(FileExistsError, match=r"^out: expected .*final.* Choose another path"):
        decompose(model, data, out=tmp_path, **SMALL)
    assert theirs.read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
