import math

import pytest
import torch

from subscape.divergences import KL, MSE
from subscape.finetuning.losses import as_loss, is_language_model, movement, value_of

IDS = torch.tensor([[0, 1, 1]])
# At the first position the next token, 1, has odds 3 : 1; at the second 1 : 1.
LOGITS = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0], [9.0, 0.0]]])


def test_next_token_by_hand():
    loss = as_loss(None, language=True)
    both, first = (math.log(4 / 3) + math.log(2)) / 2, math.log(4 / 3)
    assert float(loss(LOGITS, IDS)) == pytest.approx(both)
    assert float(loss(LOGITS, {"input_ids": IDS})) == pytest.approx(both)
    padded = {"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 0]])}
    assert float(loss(LOGITS, padded)) == pytest.approx(first)
    labels = torch.tensor([[-100, 1, -100]])
    assert float(loss(LOGITS, ({"input_ids": IDS}, labels))) == pytest.approx(first)


def test_losses_to_labels():
    outputs = torch.tensor([[0.0, math.log(3)]])
    crossed = as_loss("cross-entropy", language=False)
    assert float(crossed(outputs, (None, torch.tensor([1])))) == pytest.approx(math.log(4 / 3))
    squared = as_loss("mse", language=False)
    assert float(squared(torch.tensor([[1.0, 3.0]]), (None, torch.zeros(1, 2)))) == 5
    with pytest.raises(ValueError, match="inputs without labels"):
        crossed(outputs, torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"shape \[1, 2\]; got \[1\]"):
        squared(outputs, (None, torch.zeros(1)))


def test_what_is_no_loss():
    with pytest.raises(ValueError, match="got none, and the model is no causal language model"):
        as_loss(None, language=False)
    with pytest.raises(ValueError, match="Did you mean 'mse'"):
        as_loss("MSE", language=False)
    outputs = torch.zeros(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"one number; got shape \[2\]"):
        value_of(lambda f, batch: f.sum(1), outputs, None)
    with pytest.raises(ValueError, match="a number that depends on the outputs"):
        value_of(lambda f, batch: f.detach().sum(), outputs, None)


def test_padding_does_not_move():
    outputs, original = torch.tensor([[[0.0, math.log(3)], [5.0, 0.0]]]), torch.zeros(1, 2, 2)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    mask = {"attention_mask": torch.tensor([[1, 0]])}
    assert movement(KL, outputs, original, mask).tolist() == pytest.approx([expected])
    assert len(movement(KL, outputs, original, torch.zeros(1, 2))) == 2
    assert movement(MSE, torch.ones(3, 2), torch.zeros(3, 2), torch.zeros(3)).tolist() == [1] * 3


def test_which_models_speak():
    assert is_language_model(LOGITS, IDS)
    assert is_language_model(LOGITS, {"input_ids": IDS})
    assert not is_language_model(LOGITS[:, -1], IDS)
    assert not is_language_model(LOGITS, torch.zeros(1, 3))
    assert not is_language_model(LOGITS, {"x": IDS})
