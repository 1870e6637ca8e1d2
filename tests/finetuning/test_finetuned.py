"""Coefficients as a small folder that edits, adapters and merged models are made from."""

import json

import pytest
import torch

from subscape import Finetuned, Target
from subscape.finetuning.finetune import finetune
from tests.conftest import tiny
from tests.subnetworks.conftest import untrained_of


def record(n=5, decomposition="d", **moved):
    coefficients = torch.zeros(n)
    coefficients[1], coefficients[n - 1] = 0.5, -2.0
    fields = {"loss": "mse", "loss_before": 2.0, "loss_after": 1.0, "moved": 0.25}
    more = {"moved_others": None, "unit": "nats", "steps": 40, "settings": {"steps": 60}}
    return Finetuned(coefficients, decomposition, **fields | more | moved)


@pytest.fixture
def tuned(case):
    return finetune(case.found, case.model, (case.x, case.y), "mse", steps=20, progress=False)


def test_it_is_saved_and_loaded(case, tuned, tmp_path):
    folder = tuned.save_pretrained(tmp_path / "c")
    again = Finetuned.from_pretrained(folder, case.found)
    assert torch.equal(again.coefficients, tuned.coefficients)
    assert {**vars(again), "coefficients": 0} == {**vars(tuned), "coefficients": 0}
    tuned.save_pretrained(folder)
    (folder / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="no earlier result"):
        tuned.save_pretrained(folder)


def test_a_thousand_coefficients_take_ten_kilobytes(tmp_path):
    large = record(1000)
    object.__setattr__(large, "coefficients", torch.randn(1000))
    folder = large.save_pretrained(tmp_path / "c")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000


def test_what_is_shown():
    text = str(record(moved_others=0.125))
    assert "held-out loss (mse)  2 → 1" in text
    assert "outputs of held-out samples moved by 0.25 nats a row" in text
    assert "outputs of the others moved by 0.125 nats a row" in text
    assert "2 of 5 subnetworks move, after 40 steps" in text
    assert text.splitlines()[-2:] == ["       4  -2.0000", "       1  +0.5000"]
    still = record()
    object.__setattr__(still, "coefficients", torch.zeros(5))
    assert str(still).endswith("No step did held-out samples good: the model is kept as it was.")
    assert repr(record()) == "Finetuned(2 of 5 subnetworks move, held-out loss 2 → 1)"


def test_what_belongs_to_something_else_is_refused(case, tuned, tmp_path):
    folder = tuned.save_pretrained(tmp_path / "c")
    other = untrained_of(Target(case.model), 6)
    with pytest.raises(ValueError, match="coefficients: expected those of this decomposition of 6"):
        Finetuned.from_pretrained(folder, other)
    with pytest.raises(ValueError, match="a folder of coefficients"):
        Finetuned.from_pretrained(tmp_path, case.found)
    found = case.found.save_pretrained(tmp_path / "found")
    with pytest.raises(ValueError, match=r"config\.json: expected the config of coefficients"):
        Finetuned.from_pretrained(found, case.found)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format": "subscape-coefficients/2"}))
    with pytest.raises(ValueError, match="got subscape-coefficients/2"):
        Finetuned.from_pretrained(folder, case.found)
    # An edit of a model that has changed since.
    with torch.no_grad():
        case.model[0].weight.add_(1)
    with pytest.raises(ValueError, match="same shapes, other values"):
        case.found.edit(case.model, tuned.deltas)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_peft_loads_them_as_a_lora(tmp_path):
    peft = pytest.importorskip("peft")
    model, ids = tiny("llama"), torch.randint(0, 11, (30, 6))
    found = untrained_of(Target(model, "model.layers.*.self_attn.*"), 4)
    tuned = finetune(found, model, {"input_ids": ids}, steps=20, learning_rate=0.1, progress=False)
    assert tuned.loss == "next-token"
    assert tuned.loss_after < tuned.loss_before
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with found.edit(model, tuned.deltas) as edited:
            expected = edited(input_ids=ids).logits
        merged = found.edited(model, tuned.deltas)(input_ids=ids).logits
        found.save_lora(tmp_path / "lora", model, tuned.deltas)
        loaded = peft.PeftModel.from_pretrained(model, tmp_path / "lora")(input_ids=ids).logits
    assert (expected - before).abs().max() > 1e-2
    assert (merged - expected).abs().max() == 0
    assert (loaded - expected).abs().max() <= 1e-5
