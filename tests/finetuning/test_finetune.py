"""Coefficients that are known are found, and all that can go wrong on the way is said."""

import warnings
from dataclasses import replace

import pytest
import torch

import subscape
from subscape import Target
from subscape._io import read_metadata, write_tensors
from subscape.finetuning.adam import Adam
from subscape.finetuning.finetune import finetune
from subscape.measures.record import identity_of
from subscape.training.decompose import decompose
from tests.conftest import tiny
from tests.subnetworks.conftest import untrained_of

QUIET = {"progress": False, "learning_rate": 0.05, "batch_size": 64}


def test_known_coefficients_are_found(case):
    tuned = finetune(case.found, case.model, (case.x, case.y), "mse", steps=400, **QUIET)
    expected = torch.tensor([0, 0.8, 0, -0.5, 0], dtype=torch.float64)
    torch.testing.assert_close(tuned.coefficients, expected, atol=5e-3, rtol=0)
    assert tuned.loss_after < 1e-4 * tuned.loss_before
    assert tuned.loss == "mse"
    assert tuned.unit == "squared output"
    assert tuned.moved_others is None
    assert tuned.decomposition == identity_of(case.found)


def test_only_those_asked_for_move(case):
    tuned = finetune(
        case.found, case.model, (case.x, case.y), "mse", subnetworks=[3, 0], steps=50, **QUIET
    )
    assert tuned.deltas.keys() == {0, 3}


def test_the_figures_are_those_of_the_edit(case):
    held = torch.randn(20, 4).double()
    wanted, rest = torch.zeros(20, 3).double(), torch.randn(30, 4).double()
    tuned = finetune(
        case.found,
        case.model,
        (case.x, case.y),
        "mse",
        heldout=(held, wanted),
        others=rest[:1].repeat(30, 1) + torch.arange(30)[:, None] % 2,
        steps=40,
        **QUIET,
    )
    with torch.no_grad():
        before = case.model(held)
        with case.found.edit(case.model, tuned.deltas) as edited:
            after = edited(held)
    assert tuned.loss_before == pytest.approx(float(before.square().mean()))
    assert tuned.loss_after == pytest.approx(float(after.square().mean()))
    assert tuned.moved == pytest.approx(float((after - before).square().mean()))
    assert tuned.moved_others > 0


def test_the_penalty_leaves_few(case):
    def n_moved(l1):
        tuned = finetune(case.found, case.model, (case.x, case.y), "mse", l1=l1, steps=300, **QUIET)
        return len(tuned.deltas), tuned

    assert n_moved(0.0)[0] == 5
    few, tuned = n_moved(0.01)
    assert few < 5
    assert 1 in tuned.deltas
    assert n_moved(100.0)[0] == 0


def test_others_are_kept(case):
    others = torch.randn(80, 4).double()

    def moved(keep):
        data = (case.x, case.y)
        found = finetune(
            case.found, case.model, data, "mse", others=others, keep=keep, steps=200, **QUIET
        )
        return found.moved_others

    free, kept = moved(0.0), moved(10.0)
    assert kept < 0.05 * free


def test_without_others_the_data_are_kept(case):
    moved = [
        finetune(case.found, case.model, (case.x, case.y), "mse", keep=k, steps=200, **QUIET).moved
        for k in (0.0, 1.0)
    ]
    # Half way between two squared errors of one scale lies half the move, a quarter of its square.
    assert moved[1] == pytest.approx(0.25 * moved[0], rel=0.2)


def test_nothing_is_learned_from_what_makes_held_out_worse(case):
    held = (case.x, case.model(case.x).detach())
    tuned = finetune(
        case.found, case.model, (case.x, case.y), "mse", heldout=held, steps=300, **QUIET
    )
    assert tuned.deltas == {}
    assert tuned.steps == 0
    assert tuned.loss_after == tuned.loss_before


def test_it_goes_on_with_the_same_result(case, tmp_path, monkeypatch):
    settings = QUIET | {"steps": 60, "batch_size": 10, "l1": 1e-3}
    data = (case.x, case.y)
    whole = finetune(case.found, case.model, data, "mse", out=tmp_path / "whole", **settings)
    right, count = Adam.after, [0]

    def interrupted(self, *arguments):
        count[0] += 1
        if count[0] == 31:
            raise KeyboardInterrupt
        return right(self, *arguments)

    monkeypatch.setattr(Adam, "after", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetune(case.found, case.model, data, "mse", out=tmp_path / "cut", **settings)
    assert not (tmp_path / "cut" / "final").exists()
    for _ in range(2):
        again = finetune(case.found, case.model, data, "mse", out=tmp_path / "cut", **settings)
        assert torch.equal(again.coefficients, whole.coefficients)
        assert again.loss_after == whole.loss_after
    assert count[0] == 31 + 40
    for change, words in (
        ({"steps": 61}, "steps: expected 60, as in the run found"),
        ({"subnetworks": [1]}, "subnetworks: expected"),
    ):
        with pytest.raises(ValueError, match=words):
            finetune(case.found, case.model, data, "mse", out=tmp_path / "cut", **settings | change)
    other = (case.x + 1, case.y)
    with pytest.raises(ValueError, match="learned: expected 'SHA-256"):
        finetune(case.found, case.model, other, "mse", out=tmp_path / "cut", **settings)
    new = settings | {"steps": 20, "overwrite": True}
    fresh = finetune(case.found, case.model, data, "mse", out=tmp_path / "cut", **new)
    assert fresh.steps == 20


def test_another_folder_is_not_written_into(case, tmp_path):
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="out: expected a new folder, or that of a run"):
            finetune(
                case.found,
                case.model,
                (case.x, case.y),
                "mse",
                out=tmp_path,
                overwrite=overwrite,
                **QUIET,
            )
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["mine.txt"]
    other = write_of_another_kind(tmp_path / "run")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="no earlier result"):
            data = (case.x, case.y)
            run = {"out": other.parent, "overwrite": overwrite}
            finetune(case.found, case.model, data, "mse", **run, **QUIET)
    assert read_metadata(other) == {"state": "{}"}


def write_of_another_kind(folder):
    """A checkpoint as a run of `decompose` leaves it."""
    write_tensors(folder / "checkpoint.safetensors", {"step": torch.ones(1)}, {"state": "{}"})
    return folder / "checkpoint.safetensors"


def test_data_of_another_vocabulary():
    model = tiny("llama")
    found = untrained_of(Target(model, "model.layers.1.self_attn"), 3)
    right, wrong = torch.randint(0, 11, (6, 4)), torch.full((6, 4), 11)
    for given in ({"data": wrong}, {"data": right, "others": wrong + torch.arange(6)[:, None]}):
        with pytest.raises(ValueError, match="token ids of the model's vocabulary, 0 to 10; got 1"):
            finetune(found, model, heldout=right, **given, **QUIET)


def test_a_loss_that_is_not_finite_is_refused(case):
    with pytest.raises(ValueError, match="loss: expected a finite number; got nan on held-out"):
        finetune(case.found, case.model, case.x, lambda f, x: f.sum() * torch.nan, **QUIET)

    def explodes(outputs, x):
        original = case.model(x).detach()
        return outputs.sum() / ((outputs - original).abs().max() == 0)

    with pytest.raises(ValueError, match=r"got -?inf on the batch of step 1\."):
        finetune(case.found, case.model, case.x, explodes, **QUIET)


def test_a_function_gets_batches_in_the_form_of_the_data(case):
    seen = []

    def loss(outputs, batch):
        seen.append(batch)
        return outputs.square().mean()

    finetune(case.found, case.model, case.x, loss, steps=1, **QUIET)
    assert all(isinstance(batch, torch.Tensor) for batch in seen)
    seen.clear()
    finetune(case.found, case.model, (case.x, case.y), loss, steps=1, **QUIET)
    assert all(torch.equal(case.y[match_of(case.x, x)], y) for x, y in seen)


def match_of(rows, some):
    return torch.stack([(rows == row).all(1).nonzero()[0, 0] for row in some])


def test_the_model_is_left_as_it_was(case):
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    finetune(case.found, case.model, (case.x, case.y), "mse", steps=5, **QUIET)
    for name, value in case.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None and p.requires_grad for p in case.model.parameters())


def test_a_move_out_of_range_is_told(case):
    measures = subscape.measure(
        replace(case.found, settings={"divergence": "mse", "reference": "another-row"}),
        case.model,
        case.x,
        n_rows=30,
        n_references=2,
        n_top=3,
        n_others=6,
        n_deltas=2,
        progress=False,
    )
    near = [replace(entry, validity_radius=0.6) for entry in measures.subnetworks]
    near[3] = replace(near[3], validity_radius=None)
    measures = replace(measures, subnetworks=tuple(near))
    run = {"measures": measures, "steps": 300, **QUIET}
    with pytest.warns(
        UserWarning, match=r"subnetworks 1 \(\|δ\| 0\.\d+, predicted up to 0\.6\) move"
    ):
        finetune(case.found, case.model, (case.x, case.y), "mse", **run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetune(case.found, case.model, (case.x, case.y), "mse", subnetworks=[3], **run)


@pytest.mark.usefixtures("unchecked")
def test_the_gain_of_one_feature_of_a_toy(trained_tms):
    """A feature is to weigh 15 % more; its output does so within 2 %, the others' stay within 2 %."""
    model, gain = trained_tms.model, 1.15
    x = trained_tms.sample(3000, torch.Generator().manual_seed(0))
    found = decompose(
        model,
        x,
        parameters="W_*",
        divergence="mse",
        n_subnetworks=5,
        rank=1,
        l0=0.5,
        steps=800,
        progress=False,
    )
    with torch.no_grad():
        now, unit, half = model(x), model(torch.eye(5)), model(torch.eye(5) / 2)
    for feature in (0, 2):
        active = x[:, feature] > 0
        alone = active & ((x > 0).sum(1) == 1)
        slope = 2 * (unit - half)[feature, feature]
        wanted = now[:, feature] + (gain - 1) * slope * x[:, feature]
        tuned = finetune(
            found,
            model,
            (x[alone], wanted[alone]),
            lambda outputs, batch, k=feature: (outputs[:, k] - batch[1]).square().mean(),
            others=x[~active],
            keep=1.0,
            learning_rate=0.01,
            batch_size=256,
            progress=False,
        )
        with torch.no_grad(), found.edit(model, tuned.deltas) as edited:
            then = edited(x)
        rest = torch.arange(5) != feature

        error, before = (
            float((outputs[alone, feature] - wanted[alone]).norm() / wanted[alone].norm())
            for outputs in (then, now)
        )
        change = float((then - now)[:, rest].norm() / now[:, rest].norm())
        assert before > 0.12
        assert error <= 0.02
        assert change <= 0.02
