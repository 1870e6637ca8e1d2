import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subscape.lowrank import make_layout

MATRIX = {"w": (4, 6)}


@pytest.mark.parametrize(
    ("shape", "rank", "ranks"),
    [
        ((4, 6), 2, (2, 2)),
        ((4, 6), 6, (4, 6)),  # above the smaller mode: that mode stays whole
        ((4, 6), 0.5, (2, 3)),
        ((4, 6), 0.01, (1, 1)),
        ((25, 30), 0.1, (2, 3)),  # round(2.5) is 2
        ((4, 6), (1, 3), (1, 3)),
        ((8, 3, 3, 3), 4, (4, 3, 3, 3)),
        ((7,), 2, (7,)),  # vectors are kept whole
        ((7,), 0.1, (7,)),
        ((7,), (2,), (2,)),  # unless their rank is spelled out
        ((), 3, ()),
    ],
)
def test_ranks(shape, rank, ranks):
    (tensor,) = make_layout({"w": shape}, rank).tensors
    assert tensor.ranks == ranks


def test_ranks_by_glob_take_the_first_that_matches():
    shapes = {"q.weight": (4, 4), "k.weight": (4, 4), "k.bias": (4,)}
    layout = make_layout(shapes, {"q.*": 3, "*.weight": 0.5, "*": 1})
    assert [t.ranks for t in layout.tensors] == [(3, 3), (2, 2), (4,)]


@pytest.mark.parametrize(
    ("rank", "match"),
    [
        (0, "one positive rank for each of the 2 modes"),
        (-1, "one positive rank"),
        (7, r"at most the dimensions \[4, 6\] of 'w'; got 7"),
        ((5, 2), r"at most the dimensions \[4, 6\]"),
        ((2,), "one positive rank for each of the 2 modes"),
        ((2, 0), "one positive rank"),
        (1.0, "Write 4, not 4.0"),
        (0.0, "a fraction in"),
        (-0.5, "a fraction in"),
        ({"v*": 1}, r"'w' among them; got globs \['v\*'\]"),
    ],
)
def test_bad_ranks_are_refused(rank, match):
    with pytest.raises(ValueError, match=f"rank: expected .*{match}"):
        make_layout(MATRIX, rank)


@pytest.mark.parametrize(
    ("shape", "rank", "form", "pieces", "modes"),
    [
        # The core, then a factor per mode that is cut; modes 1 and 3 have full rank.
        ((8, 3, 5, 2), (2, 3, 1, 2), "tucker", [(2, 3, 1, 2), (8, 2), (5, 1)], [0, 2]),
        ((8, 3, 5), 4, "cp", [(8, 4), (3, 4), (5, 4)], [0, 1, 2]),
        # Vectors and scalars are whole in every form.
        *(((5,), 1, form, [(5,)], []) for form in ("tucker", "cp")),
        *(((), 1, form, [()], []) for form in ("tucker", "cp")),
    ],
)
def test_pieces(shape, rank, form, pieces, modes):
    (tensor,) = make_layout({"w": shape}, rank, form).tensors
    assert tensor.piece_shapes == pieces
    assert tensor.factored_modes == modes
    assert tensor.numel == math.prod(shape)


def test_sizes_by_hand():
    layout = make_layout({"w": (4, 6), "b": (4,)}, 2)
    # Core 2·2, factors 4·2 and 6·2, bias 4.
    assert layout.names == ["w", "b"]
    assert layout.sizes == [4, 8, 12, 4]
    assert layout.size == 28
    assert layout.n_parameters == 28  # 24 + 4; by chance the same


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    fraction=st.floats(0.01, 0.99),
    form=st.sampled_from(["tucker", "cp"]),
)
def test_fractions_always_give_a_rank_between_1_and_the_dimension(shape, fraction, form):
    (tensor,) = make_layout({"w": shape}, fraction, form).tensors
    assert len(tensor.ranks) == len(shape)
    if tensor.form == "tucker":
        assert all(1 <= r <= d for r, d in zip(tensor.ranks, shape, strict=True))
    else:
        assert len(set(tensor.ranks)) == 1
        assert 1 <= tensor.ranks[0] <= max(shape)
