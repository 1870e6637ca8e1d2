import sys

import pytest
import torch

from subscape.reproduce.digits import digits_task


def test_the_digits_are_learnt_and_drawn_from_the_seed(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr("subscape.reproduce.digits.STEPS", 150)
    task = digits_task(1)
    assert task.scored.base(task.scoring) > 0.9
    assert len(task.inputs) + len(task.scored.inputs) == 1797
    again = digits_task(1)
    assert torch.equal(task.chain.outputs(task.inputs), again.chain.outputs(again.inputs))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="sklearn: expected to be installed, for the digits"):
        digits_task()
