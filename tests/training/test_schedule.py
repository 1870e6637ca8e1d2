import math

import pytest

from subscape import TrainingConfig
from subscape.training.schedule import in_dense_warmup, learning_rate


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # 0.1 (1 + cos(π t / 4)) falls to zero at the end.
        (
            {"schedule": "cosine", "learning_rate": 0.2, "steps": 4},
            {0: 0.2, 1: 0.1 * (1 + math.sqrt(0.5)), 2: 0.1, 3: 0.1 * (1 - math.sqrt(0.5)), 4: 0.0},
        ),
        # The paper's: ×0.8 every 100 epochs of 32 steps.
        (
            {"schedule": "step", "learning_rate": 0.01, "steps": 32_000},
            {0: 0.01, 3_199: 0.01, 3_200: 0.008, 6_400: 0.0064, 31_999: 0.01 * 0.8**9},
        ),
        ({"schedule": "constant", "learning_rate": 0.3}, dict.fromkeys((0, 5_000, 9_999), 0.3)),
    ],
)
def test_rates_by_hand(settings, expected):
    config = TrainingConfig(**settings)
    assert {t: learning_rate(config, t) for t in expected} == pytest.approx(expected)


def test_all_coefficients_are_active_during_the_dense_warm_up():
    config = TrainingConfig(dense_warmup=0.25, steps=8)
    assert [in_dense_warmup(config, t) for t in range(8)] == [True] * 2 + [False] * 6
    assert not in_dense_warmup(TrainingConfig(dense_warmup=0.0, steps=8), 0)
