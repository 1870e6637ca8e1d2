import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from subscape import Decomposition, GradientSource, Target, decompose
from subscape._io import read_tensors
from subscape.subnetworks import SELECTIONS
from subscape.subnetworks.evaluation import evaluate
from subscape.training import Trainer, stream, train, train_side_by_side
from tests.training.conftest import SMALL

pytestmark = pytest.mark.usefixtures("unchecked")

CONFIG = replace(SMALL, steps=24, learning_rate=0.05, dense_warmup=0.1, resample_every=6)
CONFIG = replace(CONFIG, n_heldout_rows=64, log_every=2, checkpoint_every=5)


def run(planted, folder=None, **changes):
    options = {"reference": "uniform", "config": CONFIG, "progress": False} | changes
    return decompose(planted.model, planted.data, out=folder, **options)


def figures(result):
    return {k: v for k, v in result.metrics.items() if k != "seconds"}


def assert_same(one, other):
    assert torch.equal(one.encoder.weights, other.encoder.weights)
    assert torch.equal(one.decoder.weights, other.decoder.weights)
    assert torch.equal(one.threshold, other.threshold)
    assert figures(one) == figures(other)


@pytest.fixture
def quick(monkeypatch):
    """Few rows to judge subnetworks by."""
    monkeypatch.setattr(stream, "JUDGING_ROWS", 96)


@pytest.mark.parametrize(
    "settings", [{"engine": "jacobian"}, {"engine": "vmap"}, {"selection": "jumprelu"}]
)
def test_the_same_seed_gives_the_same_bits_in_a_folder_too_and_another_does_not(
    planted, tmp_path, settings
):
    folder = tmp_path / "new" / "run"
    one, same = run(planted, **settings), run(planted, folder, **settings)
    assert_same(one, same)
    assert_same(one, Decomposition.from_pretrained(folder / "final"))
    names = sorted(f.name for f in folder.iterdir())
    assert names == ["checkpoint.safetensors", "final", "metrics.jsonl"]
    # No graph is held.
    assert not any(p.requires_grad for p in one.dictionary.parameters())
    assert not one.threshold.requires_grad
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(len(line["fvu"]) == 2 for line in lines)
    # Step 2 is in the warm-up: all 5 are active; then one per row.
    assert lines[0]["l0"] == [5.0, 5.0]
    if "engine" in settings:  # 16 pairs of 16 rows
        assert lines[-1]["l0"] == [1.0, 1.0]
    assert all(0 <= s <= 0.8 for s in lines[-1]["silent"])
    other = run(planted, seed=1, **settings)
    assert not torch.equal(one.decoder.weights, other.decoder.weights)


# Resuming


def assert_same_folders(*folders):
    """Metrics and checkpoints to the bit."""
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in folders]
    assert lines[0] == lines[1]
    assert [json.loads(line)["step"] for line in lines[0]] == list(range(2, 25, 2))
    states = [read_tensors(folder / "checkpoint.safetensors") for folder in folders]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


# Checkpoints are at 5, 10, …: 1 is in the dense warm-up, 3 before the first, 13 between two, 20 on one.
@pytest.mark.parametrize("kind", list(SELECTIONS))
@pytest.mark.parametrize(
    ("engine", "steps"),
    [("jacobian", 1), ("jacobian", 13), ("vmap", 3), ("vmap", 13), ("vmap", 20)],
)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    planted, tmp_path, engine, steps, kind, interrupted, monkeypatch
):
    # Blocks of rows made ahead are of 4 batches, so that a resumed run starts in the middle of one.
    monkeypatch.setattr(stream, "PREFETCH_STEPS", 4)
    options = {"engine": engine, "selection": kind}
    whole = run(planted, tmp_path / "whole", **options)
    interrupted(steps, lambda: run(planted, tmp_path / "cut", **options))
    if steps == 13:  # a torn line is dropped
        with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
            file.write('{"step": 14, "fvu": [0.1')
    assert_same(whole, run(planted, tmp_path / "cut", **options))
    assert_same_folders(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("rows", ["sampled-token", "token"])
def test_a_run_in_micro_batches_is_resumed_to_the_bit(words, tmp_path, rows, interrupted):
    # Parts of one group: of 8 samples with 3 positions.
    config = replace(CONFIG, batch_size=48, memory_gib=1e-9)

    def run_words(name):
        source, heldout = (words(rows, n=60, seed=seed) for seed in (0, 1))
        return train(source, heldout, config, folder=tmp_path / name)

    whole = run_words("whole")
    interrupted(13, lambda: run_words("cut"))
    assert_same(whole, run_words("cut"))
    assert_same_folders(tmp_path / "whole", tmp_path / "cut")


def test_a_resumed_run_does_not_start_over(planted, tmp_path, interrupted, monkeypatch):
    interrupted(13, lambda: run(planted, tmp_path))
    seen = []
    original = Trainer.step

    def step(self):
        seen.append(self.step_number)
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)
    first = run(planted, tmp_path)
    assert seen == list(range(10, 24))
    # A finished one is not trained at all.
    assert_same(first, run(planted, tmp_path))
    assert seen == list(range(10, 24))


@pytest.mark.usefixtures("quick")
def test_what_changes_no_result_may_change(planted, tmp_path, interrupted):
    """The folder's name, how often is logged or saved, and how many rows are made at once."""
    options = {"engine": "vmap"}
    whole = run(planted, tmp_path / "whole", **options)
    interrupted(13, lambda: run(planted, tmp_path / "old", **options))
    (tmp_path / "old").rename(tmp_path / "new")
    changes = {"log_every": 3, "checkpoint_every": 4, "memory_gib": 1e-9, "micro_batch_size": 8}
    resumed = run(planted, Path(f"{tmp_path}/./new"), **changes, **options)
    for side in ("encoder", "decoder"):
        one, other = (getattr(d, side).weights for d in (resumed, whole))
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    lines = (tmp_path / "new" / "metrics.jsonl").read_text().splitlines()
    # Until step 10 by 2, the last checkpoint; then by 3.
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8, 10, 12, 15, 18, 21, 24]


CHANGES = [{"learning_rate": 0.02}, {"n_subnetworks": 4}, {"rank": (1, 1)}, {"steps": 30}]
CHANGES += [{"decay_every": 100}, {"resample_every": 7}, {"dense_warmup": 0.2}, {"l0": 2.0}]
CHANGES += [{"selection": "jumprelu"}, {"row_weight": "unit"}, {"seed": 1}, {"engine": "vmap"}]
CHANGES += [{"divergence": "half-reference-mse"}, {"reference": "batch-mean"}]
CHANGES += [{"divergence": lambda outputs, reference: (outputs - reference).square().sum(1) / 2}]


def test_a_run_with_other_settings_values_or_data_is_refused(planted, tmp_path):
    run(planted, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    for change in CHANGES:
        said = f"{next(iter(change))}: expected .*{tmp_path.name}; got .*own settings"
        with pytest.raises(ValueError, match=said):
            run(planted, tmp_path, **change)
    with pytest.raises(ValueError, match=r"data: expected .* got .*Resume with"):
        run(replace(planted, data=planted.data + 1e-9), tmp_path)
    with torch.no_grad():
        planted.model.weight[0, 0] += 1e-9
    with pytest.raises(ValueError, match=r"target: expected .* got .*Resume with"):
        run(planted, tmp_path)
    # What is there stays there.
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert Decomposition.from_pretrained(tmp_path / "final").metrics["steps"] == 24


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_weights_that_are_not_finite_are_not_kept(planted, tmp_path, monkeypatch, side):
    """Between two lines of metrics too."""
    right = Trainer.step

    def step(self):
        batch = right(self)
        if self.step_number == 10:
            getattr(self.dictionary, f"{side}_weights").data[..., 0] = torch.nan
        return batch

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(ValueError, match=r"learning_rate: expected .* weights .* step 10"):
        run(planted, tmp_path, log_every=100)
    assert int(read_tensors(tmp_path / "checkpoint.safetensors")["step"]) == 5


# What a run gives


def test_the_restart_with_the_lowest_heldout_fvu_is_kept(planted):
    source = GradientSource(Target(planted.model), planted.data[:800], reference="uniform")
    heldout = GradientSource(Target(planted.model), planted.data[800:], reference="uniform", seed=1)
    config = replace(CONFIG, n_restarts=4)
    result = train(source, heldout, config)
    fvus = result.metrics["fvu_of_restarts"]
    assert len(set(fvus)) == 4
    best = result.metrics["restart"]
    assert result.metrics["fvu"] == min(fvus) == fvus[best]
    # The stacks are those of that restart, not only its figure.
    trainer = Trainer([source], config)
    for _ in range(config.steps):
        trainer.step()
    kept = trainer.dictionary.select(0).select(best)
    sign = (result.decoder.flat() * kept.decoder.flat()).sum(1).sign()
    for side in ("encoder", "decoder"):  # turned after training: see the tests of calibrate
        mine, theirs = (getattr(d, side) for d in (result, kept))
        assert torch.equal(mine.weights, theirs.turned(sign).weights)
    again = evaluate(heldout, result.dictionary, n_rows=64, batch_size=16)
    assert float(again.fvu) == pytest.approx(result.metrics["fvu"])
    assert again.active_rate.tolist() == result.metrics["active_rate"]


def test_targets_side_by_side_each_get_a_decomposition_of_their_own(make_planted):
    pairs = []
    for seed in (0, 1):
        planted = make_planted(seed)
        target = Target(planted.model)
        pairs.append([
            GradientSource(target, part, reference="uniform", seed=seed)
            for part in (planted.data[:800], planted.data[800:])
        ])
    together = train_side_by_side([p[0] for p in pairs], [p[1] for p in pairs], CONFIG)
    for (source, heldout), result in zip(pairs, together, strict=True):
        result.verify(source.target)
        alone = train(source, heldout, CONFIG)
        torch.testing.assert_close(
            result.decoder.weights, alone.decoder.weights, rtol=1e-6, atol=1e-8
        )
        assert result.metrics["fvu"] == pytest.approx(alone.metrics["fvu"])
