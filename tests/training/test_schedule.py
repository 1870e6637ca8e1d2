import math

import pytest

from subscape import TrainingConfig
from subscape.training.schedule import in_dense_warmup, learning_rate


def test_cosine_falls_to_zero_at_the_end():
    config = TrainingConfig(schedule="cosine", learning_rate=0.2, steps=4)
    # 0.1 (1 + cos(π t / 4)).
    expected = [0.2, 0.1 * (1 + math.sqrt(0.5)), 0.1, 0.1 * (1 - math.sqrt(0.5)), 0.0]
    assert [learning_rate(config, t) for t in range(5)] == pytest.approx(expected)


def test_step_schedule_of_the_paper():
    # ×0.8 every 100 epochs of 32 steps.
    config = TrainingConfig(schedule="step", learning_rate=0.01, steps=32_000)
    rates = [learning_rate(config, t) for t in (0, 3_199, 3_200, 6_400, 31_999)]
    assert rates == pytest.approx([0.01, 0.01, 0.008, 0.0064, 0.01 * 0.8**9])


def test_constant_schedule():
    config = TrainingConfig(schedule="constant", learning_rate=0.3)
    assert [learning_rate(config, t) for t in (0, 5_000, 9_999)] == [0.3] * 3


def test_all_coefficients_are_active_during_the_dense_warm_up():
    config = TrainingConfig(dense_warmup=0.25, steps=8)
    assert [in_dense_warmup(config, t) for t in range(8)] == [True] * 2 + [False] * 6
    assert not in_dense_warmup(TrainingConfig(dense_warmup=0.0, steps=8), 0)
