import math

import pytest

from subscape.finetuning.line_search import FACTOR, N_BISECTIONS, line_search


def test_the_shortest_move_that_reaches_the_aim():
    # Effect 0.5 is reached at 3 to the right and at -8 to the left; damage is the size.
    best = line_search(lambda x: (x / 6 if x > 0 else -x / 16, abs(x)), aim=0.5)
    step = 3 * (FACTOR - 1) / 2**N_BISECTIONS
    assert 3 <= best.size <= 3 + step
    assert best.effect >= 0.5


def test_of_both_sides_the_one_of_less_damage():
    best = line_search(lambda x: (abs(x), x if x > 0 else 4 * x * x), aim=0.1)
    assert best.size == pytest.approx(-0.1, rel=0.02)
    assert best.damage == pytest.approx(0.04, rel=0.04)


def test_no_further_than_the_damage_allowed():
    best = line_search(lambda x: (x, x * x), aim=0.9, most=0.25)
    assert best.size == pytest.approx(0.5, rel=0.02)
    assert best.damage <= 0.25
    assert best.effect == best.size


def test_what_has_no_effect_moves_nothing():
    assert line_search(lambda x: (-abs(x), abs(x)), aim=0.5, most=1.0).size == 0


def test_outputs_that_are_no_numbers_are_damage():
    best = line_search(lambda x: (x, x) if x < 1 else (math.nan, math.nan), aim=5.0)
    assert best.size == pytest.approx(1, rel=0.02)
    assert best.size < 1


def test_an_effect_that_comes_and_goes():
    best = line_search(lambda x: (max(0.0, 0.3 - abs(x - 2)), abs(x)), aim=0.9, most=10.0)
    assert abs(best.size - 2) < 0.3
    assert 0 < best.effect <= 0.3
