import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from subscape import Decomposition, GradientSource, Target, TrainingConfig, decompose
from subscape._io import read_tensors
from subscape.subnetworks.evaluation import evaluate
from subscape.training import Trainer, train, train_side_by_side
from subscape.training import trainer as trainer_module

CONFIG = TrainingConfig(
    n_subnetworks=5,
    rank=1,
    active_fraction=0.2,
    steps=24,
    batch_size=16,
    learning_rate=0.05,
    warm_start=0.1,
    revive_every=6,
    n_restarts=2,
    n_heldout_rows=64,
    log_every=2,
    checkpoint_every=5,
)


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the next run fail before it has done one step more than `steps`."""
    original = Trainer.step

    def step(self: Trainer):
        if self.step_number == steps:
            raise Interrupted
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)


def run(planted, folder: Path | None = None, **changes) -> Decomposition:
    options = {"reference": "uniform", "config": CONFIG, "progress": False} | changes
    return decompose(planted.model, planted.data, out=folder, **options)


def figures(result: Decomposition) -> dict:
    return {k: v for k, v in result.metrics.items() if k != "seconds"}


def assert_same(one: Decomposition, other: Decomposition) -> None:
    assert torch.equal(one.encoder.weights, other.encoder.weights)
    assert torch.equal(one.decoder.weights, other.decoder.weights)
    assert one.threshold == other.threshold
    assert figures(one) == figures(other)


# Determinism


@pytest.mark.parametrize("engine", ["jacobian", "vmap"])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(planted, engine: str):
    one, same = run(planted, engine=engine), run(planted, engine=engine)
    assert_same(one, same)
    other = run(planted, engine=engine, seed=1)
    assert not torch.equal(one.decoder.weights, other.decoder.weights)


def test_a_run_folder_changes_nothing(planted, tmp_path: Path):
    assert_same(run(planted), run(planted, tmp_path / "run"))


# Resuming


@pytest.mark.parametrize("engine", ["jacobian", "vmap"])
@pytest.mark.parametrize("steps", [3, 13, 20], ids=lambda s: f"after {s} steps")
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    planted, tmp_path: Path, engine: str, steps: int, monkeypatch: pytest.MonkeyPatch
):
    # Checkpoints are at 5, 10, …: 3 is before the first, 13 between two, 20 on one. Blocks of rows
    # made ahead are of 4 batches, so that a resumed run starts in the middle of one.
    monkeypatch.setattr(trainer_module, "PREFETCH_STEPS", 4)
    whole = run(planted, tmp_path / "whole", engine=engine)
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        with pytest.raises(Interrupted):
            run(planted, tmp_path / "cut", engine=engine)
    resumed = run(planted, tmp_path / "cut", engine=engine)
    assert_same(whole, resumed)
    lines = [
        (tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "cut")
    ]
    assert lines[0] == lines[1]
    assert [json.loads(line)["step"] for line in lines[0]] == list(range(2, 25, 2))
    states = [read_tensors(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut")]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_a_resumed_run_does_not_start_over(
    planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 13)
        with pytest.raises(Interrupted):
            run(planted, tmp_path)
    seen = []
    original = Trainer.step

    def step(self: Trainer):
        seen.append(self.step_number)
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)
    run(planted, tmp_path)
    assert seen == list(range(10, 24))


def test_a_finished_run_is_not_trained_again(
    planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = run(planted, tmp_path)
    interrupt_after(monkeypatch, 24)
    assert_same(first, run(planted, tmp_path))


def test_a_torn_line_of_metrics_is_dropped(
    planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = tmp_path / "whole"
    run(planted, whole)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 13)
        with pytest.raises(Interrupted):
            run(planted, tmp_path / "cut")
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 14, "fvu": [0.1')
    run(planted, tmp_path / "cut")
    assert (whole / "metrics.jsonl").read_text() == (tmp_path / "cut" / "metrics.jsonl").read_text()


def test_how_often_a_run_is_logged_or_saved_may_change(planted, tmp_path: Path):
    first = run(planted, tmp_path)
    again = run(planted, tmp_path, log_every=7, checkpoint_every=11)
    assert torch.equal(first.decoder.weights, again.decoder.weights)


def half(outputs, reference):
    return (outputs - reference).square().sum(1) / 2


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.02},
        {"n_subnetworks": 4},
        {"rank": (1, 1)},
        {"steps": 30},
        {"decay_every": 100},
        {"revive_every": 7},
        {"warm_start": 0.2},
        {"seed": 1},
        {"divergence": "half-reference-mse"},
        {"divergence": half},
        {"reference": "batch-mean"},
        {"engine": "vmap"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_run_with_other_settings_is_refused(planted, tmp_path: Path, change: dict):
    run(planted, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}: expected .*{tmp_path.name}; got .*own settings"):
        run(planted, tmp_path, **change)
    # What is there stays there.
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert Decomposition.from_pretrained(tmp_path / "final").metrics["steps"] == 24


def test_a_run_on_other_values_or_data_is_refused(planted, tmp_path: Path):
    run(planted, tmp_path)
    with pytest.raises(ValueError, match=r"data: expected .* got .*Resume with"):
        run(replace(planted, data=planted.data + 1e-9), tmp_path)
    with torch.no_grad():
        planted.model.weight[0, 0] += 1e-9
    with pytest.raises(ValueError, match=r"target: expected .* got .*Resume with"):
        run(planted, tmp_path)


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
    assert torch.equal(result.decoder.weights, trainer.decoder.weights[0, best])
    assert torch.equal(result.encoder.weights, trainer.encoder.weights[0, best])
    again = evaluate(heldout, result.encoder, result.decoder, 0.2, n_rows=64, batch_size=16)
    assert float(again.fvu) == pytest.approx(result.metrics["fvu"])
    assert again.active_rate.tolist() == result.metrics["active_rate"]


def test_the_result_holds_no_graph(planted):
    result = run(planted)
    assert not result.encoder.weights.requires_grad
    assert not result.decoder.weights.requires_grad


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


def test_metrics_lines_say_what_the_steps_reached(planted, tmp_path: Path):
    run(planted, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(len(line["fvu"]) == 2 for line in lines)
    # Step 2 is in the warm start: all 5 are active; then a fifth of them, one per row.
    assert lines[0]["l0"] == [5.0, 5.0]
    # 0.2 · 16 · 5 = 16 pairs of 16 rows.
    assert lines[-1]["l0"] == [1.0, 1.0]
    assert all(0 <= s <= 0.8 for s in lines[-1]["silent"])


def test_the_result_is_saved_in_the_run_folder(planted, tmp_path: Path):
    result = run(planted, tmp_path / "new" / "run")
    loaded = Decomposition.from_pretrained(tmp_path / "new" / "run" / "final")
    assert_same(result, loaded)
    assert sorted(f.name for f in (tmp_path / "new" / "run").iterdir()) == [
        "checkpoint.safetensors",
        "final",
        "metrics.jsonl",
    ]
