import pytest

from subscape._checks import nearest, optional, problem, require


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("a whole number", 0, "Use rank=1."), "a whole number; got 0. Use rank=1."),
        (("a number", None), "a number; got None."),
        (("a number", None, nearest("zzz", ["mse"])), "a number; got None."),
        # A string is a description.
        (("4 rows", "a tensor of 3 rows"), "4 rows; got a tensor of 3 rows."),
    ],
)
def test_a_problem_states_argument_expected_got_and_repair(given, said):
    assert problem("rank", *given) == f"rank: expected {said}"


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError])
def test_require_raises_the_type_asked_for(error):
    require(True, "rank", "at least 1", 1, error=error)
    with pytest.raises(error, match="rank: expected at least 1; got 0"):
        require(False, "rank", "at least 1", 0, error=error)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("msee", "Did you mean 'mse'?"),
        ("MSE", "Did you mean 'mse'?"),
        ("kl", "Did you mean 'KL'?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_nearest_points_out_near_misses(name, expected):
    assert nearest(name, {"mse": 1, "KL": 2, "entropy": 3}) == expected


def test_what_is_not_installed_is_named_with_its_remedy():
    assert optional("json", "for nothing", "json").loads("1") == 1
    with pytest.raises(
        ImportError, match="nowhere: expected to be installed, for a test; got no"
    ) as e:
        optional("nowhere.at_all", "for a test", "'subscape[test]'")
    assert "pip install 'subscape[test]'" in str(e.value)
