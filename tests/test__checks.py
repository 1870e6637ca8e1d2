import pytest

from subscape._checks import nearest, optional, problem, require


def test_problem_states_argument_expected_got_and_repair():
    message = problem("rank", "a whole number of at least 1", 0, "Use rank=1.")
    assert message == "rank: expected a whole number of at least 1; got 0. Use rank=1."


def test_problem_without_repair_ends_at_the_full_stop():
    assert problem("rank", "a number", None) == "rank: expected a number; got None."


def test_problem_takes_a_string_as_a_description():
    assert "got a tensor of 3 rows." in problem("inputs", "4 rows", "a tensor of 3 rows")


def test_require_passes_when_the_condition_holds():
    require(True, "rank", "at least 1", 1)


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError])
def test_require_raises_the_type_asked_for(error):
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


def test_an_empty_repair_leaves_no_trace():
    message = problem("divergence", "'mse' or 'kl'", repr("zzz"), nearest("zzz", ["mse", "kl"]))
    assert message == "divergence: expected 'mse' or 'kl'; got 'zzz'."


def test_what_is_not_installed_is_named_with_its_remedy():
    assert optional("json", "for nothing", "json").loads("1") == 1
    with pytest.raises(
        ImportError, match="nowhere: expected to be installed, for a test; got no"
    ) as e:
        optional("nowhere.at_all", "for a test", "'subscape[test]'")
    assert "pip install 'subscape[test]'" in str(e.value)
