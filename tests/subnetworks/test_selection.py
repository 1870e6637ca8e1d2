"""Which coefficients of rows are active."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subscape.gradients import DenseRowGradients
from subscape.lowrank import Stack, initial_stack, make_layout
from subscape.subnetworks.dictionary import Dictionary
from subscape.subnetworks.selection import (
    SELECTIONS,
    BatchTopK,
    GroupTopK,
    JumpReLU,
    Selection,
    largest,
    selection_of,
)

DOUBLE = torch.zeros(()).double()
EVERY = pytest.mark.parametrize("kind", list(SELECTIONS))


def top_k(l0, *lead):
    return BatchTopK(l0, torch.Size(lead), DOUBLE)


def jump(l0, *thresholds):
    made = JumpReLU(l0, torch.Size([len(thresholds)]), DOUBLE)
    with torch.no_grad():
        made.log_threshold.copy_(torch.tensor(thresholds).double().log())
    return made


# All


def test_selections_are_found_by_name():
    known = {"batch-top-k": BatchTopK, "group-top-k": GroupTopK, "jumprelu": JumpReLU}
    assert known == SELECTIONS
    assert all(selection_of(kind) is made for kind, made in SELECTIONS.items())
    with pytest.raises(ValueError, match="selection: expected one of .* Did you mean 'jumprelu'?"):
        selection_of("jump-relu")


@EVERY
@pytest.mark.parametrize("l0", [0.0, -0.1, 3.1, math.nan, math.inf])
def test_numbers_of_active_subnetworks_that_are_none(kind, l0):
    with pytest.raises(ValueError, match=r"l0: expected a number .* in \(0, 3\]"):
        SELECTIONS[kind](l0, torch.Size([3]), DOUBLE)
    SELECTIONS[kind](3.0, torch.Size([3]), DOUBLE)


@EVERY
def test_a_replica_is_taken_out_with_its_state(kind):
    coefficients = torch.randn(3, 8, 4).double()
    three = SELECTIONS[kind](1.5, torch.Size([3, 4]), DOUBLE)
    three(coefficients)
    three.calibrate(coefficients.abs())
    for replica in range(3):
        one = three.select(replica)
        assert (type(one), one.l0, one.lead) == (type(three), 1.5, torch.Size([4]))
        assert torch.equal(one.threshold, three.threshold[replica])
        assert torch.equal(one(coefficients[replica]), three(coefficients)[replica])
        assert torch.equal(one.alone(coefficients[replica]), three.alone(coefficients)[replica])
    three.load_state_dict({name: 0 * values for name, values in three.state_dict().items()})
    assert one.threshold.any()  # a copy


@EVERY
def test_alone_no_row_influences_another(kind):
    coefficients = torch.randn(8, 4).double()
    made = SELECTIONS[kind](1.0, torch.Size([4]), DOUBLE)
    made(coefficients)
    made.calibrate(coefficients.abs())
    whole = made.alone(coefficients)
    assert 0 < int(whole.sum()) < whole.numel()
    assert torch.equal(torch.cat([made.alone(row[None]) for row in coefficients]), whole)


# Groups


def groups(l0, size, n_directions, gram=None):
    made = GroupTopK(l0, torch.Size([n_directions]), DOUBLE, size)
    if gram is not None:
        made.gram.copy_(torch.tensor(gram))
    return made


def test_groups_go_by_the_length_of_what_they_add_by_hand():
    # Lengths 5 and 4.5 in row 0, 1 and 6 in row 1, where the largest coefficients are 4.5 and 6.
    coefficients = torch.tensor([[3.0, -4.0, 4.5, 0.0], [1.0, 0.0, 0.0, 6.0]]).double()
    made = groups(1.0, 2, 4)
    assert made.sizes(coefficients).tolist() == [[5.0, 4.5], [1.0, 6.0]]
    expected = torch.tensor([[3.0, -4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 6.0]]).double()
    assert torch.equal(made(coefficients), expected)
    made.calibrate(coefficients)
    assert float(made.threshold) == 5.0
    assert torch.equal(coefficients * made.alone(coefficients), expected)


def test_directions_of_a_group_may_lean_on_each_other_by_hand():
    # |a − b|² = 1 + 1 − 2 · 0.6 = 0.8 and |a + b|² = 3.2.
    made = groups(1.0, 2, 2, [[[1.0, 0.6], [0.6, 1.0]]])
    sizes = made.sizes(torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double())
    torch.testing.assert_close(sizes, torch.tensor([[0.8], [3.2]]).double().sqrt())


def test_it_does_not_matter_which_directions_span_a_group():
    layout = make_layout({"w": (5,)}, 1)
    basis, change = torch.randn(2, 5).double(), torch.tensor([[2.0, 1.0], [0.5, 3.0]]).double()
    codes = torch.randn(7, 2).double()
    first, second = groups(1.0, 2, 2), groups(1.0, 2, 2)
    first.follow(Stack(layout, basis))
    second.follow(Stack(layout, change @ basis))
    torch.testing.assert_close(first.sizes(codes @ change), second.sizes(codes))
    torch.testing.assert_close(second.sizes(codes)[:, 0], (codes @ change @ basis).norm(dim=1))


def test_groups_of_one_are_batch_top_k_exactly():
    coefficients = torch.randn(3, 16, 6)
    one = GroupTopK(1.5, torch.Size([3, 6]), torch.zeros(()))
    other = BatchTopK(1.5, torch.Size([3, 6]), torch.zeros(()))
    one.follow(Stack(make_layout({"w": (4,)}, 1), torch.randn(3, 6, 4)))
    for made in (one, other):
        made.calibrate(coefficients)
    assert torch.equal(one(coefficients), other(coefficients))
    assert torch.equal(one.alone(coefficients), other.alone(coefficients))


def test_more_groups_at_once_than_there_are():
    with pytest.raises(ValueError, match=r"l0: expected a number .* in \(0, 2\]"):
        groups(2.1, 2, 4)


@pytest.mark.parametrize("form", ["dense", "factored"])
def test_groups_cheaply_as_by_their_definition(form):
    shapes = {"a": (6, 5), "b": (5,)}
    layout = make_layout(shapes, 2)
    stacks = [
        initial_stack(layout, (6,), torch.Generator().manual_seed(seed), DOUBLE) for seed in (0, 1)
    ]
    dictionary = Dictionary(*stacks, groups(1.0, 2, 6))
    rows = DenseRowGradients(torch.randn(8, 35).double(), shapes)
    gradients = rows if form == "dense" else rows.factored()
    batch = dictionary(gradients)
    v_in, v_out, g = dictionary.encoder.flat(), dictionary.decoder.flat(), rows.flat
    codes = (g @ v_in.mT).unflatten(1, (3, 2))
    added = torch.einsum("rgi,gip->rgp", codes, v_out.unflatten(0, (3, 2)))
    keep = largest(added.norm(dim=-1).detach(), len(g))  # one group a row
    torch.testing.assert_close(batch.codes, (codes * keep[..., None]).flatten(1))
    error = (g - (added * keep[..., None]).sum(1)).square().sum()
    torch.testing.assert_close(batch.error, error)
    torch.testing.assert_close(dictionary.reconstruct(gradients).error, error)


def test_groups_are_trained_saved_and_loaded(tmp_path):
    from subscape import Decomposition, decompose

    made = decompose(
        torch.nn.Linear(4, 3),
        torch.randn(200, 4),
        group_size=2,
        n_subnetworks=4,
        l0=1.0,
        rank=1,
        steps=30,
        batch_size=16,
        n_restarts=2,
        resample_every=5,
        progress=False,
        out=tmp_path,
    )
    assert (len(made), made.group_size) == (8, 2)
    assert made.metrics["active_scalars"] == 2 * made.metrics["l0"] == 2.0
    loaded = Decomposition.from_pretrained(tmp_path / "final")
    assert (len(loaded), loaded.group_size) == (8, 2)
    gradients = DenseRowGradients(torch.randn(9, 15), {"weight": (3, 4), "bias": (3,)})
    assert torch.equal(made.encode_gradients(gradients), loaded.encode_gradients(gradients))
    active = loaded.encode_gradients(gradients).unflatten(1, (4, 2)) != 0
    assert torch.equal(active[..., 0], active[..., 1])


# The largest of a batch


def test_the_largest_by_size_of_the_whole_batch_by_hand():
    # −5, 4 and −3: row 0 has one, row 1 two, subnetwork 0 none.
    found = largest(torch.tensor([[0.1, -5.0, 0.2], [0.3, 4.0, -3.0]]), 3)
    assert found.tolist() == [[False, True, False], [False, True, True]]
    # Ties go by order, row before row. The 2 comes first; of the four of size 1, the two that stand first.
    found = largest(torch.tensor([[1.0, 0.0], [-1.0, 2.0], [1.0, -1.0]]), 3)
    assert found.tolist() == [[True, False], [True, True], [False, False]]
    assert largest(torch.zeros(2, 5), 3).tolist() == [[True] * 3 + [False] * 2, [False] * 5]
    assert largest(torch.zeros(2, 3, 4), 12).all()
    # Every replica has its own cut and its own ties. Replica 1: 0.2, then the first of three 0.1.
    found = largest(torch.tensor([[[9.0, 8.0], [7.0, 6.0]], [[0.2, 0.1], [0.1, 0.1]]]), 2)
    assert found.tolist() == [[[True, True], [False, False]]] * 2


@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5)),
    keep=st.integers(1, 30),
    levels=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_the_mask_is_that_of_a_stable_sort(sizes, keep, levels, dtype, seed):
    # Few levels make many ties.
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.randint(-levels, levels + 1, sizes, generator=generator).to(dtype)
    mask = largest(coefficients, keep)
    for values, kept in zip(coefficients.flatten(1), mask.flatten(1), strict=True):
        by_size = sorted(range(len(values)), key=lambda i: (-abs(float(values[i])), i))
        assert kept.nonzero()[:, 0].tolist() == sorted(by_size[:keep])


# Batch top-k


@pytest.mark.parametrize(
    ("l0", "n_rows", "expected"),
    [
        (1.0, 5, 5),
        (0.5, 10, 5),
        (0.54, 10, 5),  # 5.4
        (0.56, 10, 6),  # 5.6
        (0.25, 10, 2),  # 2.5: halves go to the even neighbour
        (0.35, 10, 4),  # 3.5
        (0.01, 10, 1),  # 0.1: never none
        (7.0, 2, 14),  # all
    ],
)
def test_the_number_active_is_exact(l0, n_rows, expected):
    coefficients = torch.randn(2, n_rows, 7).double()
    codes = top_k(l0, 2, 7)(coefficients)
    assert (codes != 0).sum((1, 2)).tolist() == [expected, expected]
    assert torch.equal(codes[codes != 0], coefficients[codes != 0])


def test_what_is_not_active_has_no_gradient():
    coefficients = torch.tensor([[0.1, -5.0], [3.0, 0.2]], requires_grad=True)
    made = top_k(1.0, 2)
    made(coefficients).sum().backward()
    assert coefficients.grad is not None
    assert coefficients.grad.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert made.penalty(coefficients) is None
    assert list(made.parameters()) == []


def test_the_threshold_is_the_exact_cut_over_all_rows():
    sizes = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 2.0], [2.0, 2.0]]).double()
    # 8 pairs of sizes 3 2 2 2 1 0 0 0.
    for l0, cut in ((1.0, 2.0), (0.5, 2.0), (0.25, 3.0), (1.25, 1.0), (0.01, 3.0)):
        made = top_k(l0, 2)
        assert made.threshold == math.inf  # before training nothing is active
        made.calibrate(sizes)
        assert float(made.threshold) == cut
        # What is as large as the cut is active, of either sign.
        assert torch.equal(made.alone(-sizes), sizes >= cut)
    three = top_k(0.25, 3, 2)
    three.calibrate(sizes * torch.tensor([1.0, 2.0, 0.5]).double()[:, None, None])
    assert three.threshold.tolist() == [3.0, 6.0, 1.5]


# JumpReLU


def test_coefficients_pass_from_the_threshold_of_their_subnetwork_on():
    made = jump(1.0, 1.0, 4.0)
    coefficients = torch.tensor([[1.0, -5.0], [-0.9, 3.9], [-2.0, 4.25]]).double()
    assert made(coefficients).tolist() == [[1.0, -5.0], [0.0, 0.0], [-2.0, 4.25]]
    assert made.alone(coefficients).tolist() == [[True, True], [False, False], [True, True]]
    torch.testing.assert_close(made.threshold, torch.tensor([1.0, 4.0]).double())


def near(factor):
    """Two subnetworks with thresholds 1 and 4; the kernel is half a unit of ln|c| wide."""
    return torch.tensor([[factor, -4 * factor], [10.0, 0.1]]).double()


def test_gradients_pass_straight_through_by_hand():
    made = jump(1.0, 1.0, 4.0)
    coefficients = near(1.2).requires_grad_(True)  # ln 1.2 = 0.18 < 0.25, and above both thresholds
    (made(coefficients) * torch.tensor([2.0, 3.0]).double()).sum().backward()
    assert coefficients.grad is not None
    # To an active coefficient: what comes back. Row 1 has one far above and one far below.
    assert coefficients.grad.tolist() == [[2.0, 3.0], [2.0, 0.0]]
    # To ln θ: −(∂loss/∂active) / width, of coefficients within the kernel: −1.2 · 2 / 0.5, 4.8 · 3 / 0.5.
    assert made.log_threshold.grad is not None
    assert made.log_threshold.grad.tolist() == pytest.approx([-4.8, 28.8])


@pytest.mark.parametrize(
    ("factor", "felt"), [(0.78, True), (1.28, True), (0.77, False), (1.29, False)]
)
def test_thresholds_learn_from_what_is_near_them(factor, felt):
    # e^±0.25 = 0.779, 1.284.
    made = jump(1.0, 1.0, 4.0)
    made(near(factor)).sum().backward()
    assert made.log_threshold.grad is not None
    assert made.log_threshold.grad.any() == felt


def test_the_penalty_by_hand():
    # Row 0 has two active, row 1 one: L0 = 1.5, so (1.5 / 1 − 1)² = 0.25; none at L0 = l0.
    made = jump(1.0, 1.0, 4.0)
    penalty = made.penalty(near(1.2))
    assert penalty.item() == pytest.approx(0.25 * JumpReLU.STRENGTH)
    penalty.backward()
    # 2 · (1.5 − 1) · ∂L0/∂ln θ, and ∂L0/∂ln θ = −1 / width / 2 rows for each of the two near ones.
    assert made.log_threshold.grad is not None
    assert made.log_threshold.grad.tolist() == pytest.approx([-JumpReLU.STRENGTH] * 2)
    assert jump(1.5, 1.0, 4.0).penalty(near(1.2)).item() == 0.0


def test_a_penalty_of_every_replica():
    made = JumpReLU(1.0, torch.Size([2, 1]), DOUBLE)
    with torch.no_grad():
        made.log_threshold.copy_(torch.tensor([[0.0], [2.0]]))
    both = torch.tensor([[[2.0], [3.0]], [[2.0], [9.0]]]).double()
    assert made.penalty(both).tolist() == pytest.approx([0.0, 0.25 * JumpReLU.STRENGTH])


def test_thresholds_begin_at_the_cut_of_the_first_batch():
    made = JumpReLU(0.5, torch.Size([2, 3]), DOUBLE)
    assert made.threshold.tolist() == [[0.0] * 3] * 2
    first = torch.randn(2, 8, 3).double()
    codes = made(first)
    # 0.5 · 8 rows = 4 of each replica's 24, of equal threshold.
    assert torch.equal(codes != 0, largest(first, 4))
    assert made.penalty(first).tolist() == [0.0, 0.0]
    cuts = first.abs().flatten(1).sort(1).values[:, -4]
    torch.testing.assert_close(made.threshold, cuts[:, None].expand(2, 3))
    before = made.log_threshold.detach().clone()
    made(100 * first)
    assert torch.equal(made.log_threshold, before)  # the first batch only


def test_restarted_subnetworks_begin_at_the_mean_threshold():
    made = JumpReLU(1.0, torch.Size([1, 2, 3]), DOUBLE)
    logs = torch.tensor([[[0.0, 3.0, 6.0], [1.0, 2.0, 9.0]]]).double()
    with torch.no_grad():
        made.log_threshold.copy_(logs)
    made.restart((0, torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1])))
    assert made.log_threshold.tolist() == [[[0.0, 3.0, 3.0], [4.0, 4.0, 9.0]]]


def test_thresholds_that_were_learned_do_not_begin_anew():
    one = jump(1.0, 1.0, 4.0)
    other = JumpReLU(1.0, torch.Size([2]), DOUBLE)
    other.load_state_dict(one.state_dict())
    coefficients = near(0.9)
    assert torch.equal(other(coefficients), one(coefficients))
    assert torch.equal(other.threshold, one.threshold)
    one.calibrate(coefficients.abs())
    assert torch.equal(other.threshold, one.threshold)


# The seam: a rule of one's own


class TopOfRow(Selection):
    """The one largest coefficient of every row."""

    kind = "top-of-row"

    def __init__(self, l0, lead, like):
        super().__init__(l0, lead, like)
        self.register_buffer("threshold", like.new_zeros(lead[:-1]))

    def forward(self, coefficients):
        size = coefficients.detach().abs()
        return coefficients * (size == size.amax(-1, keepdim=True))

    def alone(self, coefficients):
        return self(coefficients) != 0


def test_a_selection_of_ones_own_is_trained_saved_and_loaded(monkeypatch, tmp_path):
    from subscape import Decomposition, decompose

    monkeypatch.setitem(SELECTIONS, TopOfRow.kind, TopOfRow)
    settings = {"n_subnetworks": 6, "rank": 1, "steps": 30, "batch_size": 16, "n_restarts": 2}
    made = decompose(
        torch.nn.Linear(4, 3),
        torch.randn(200, 4),
        selection="top-of-row",
        l0=1.0,
        resample_every=5,
        progress=False,
        out=tmp_path,
        **settings,
    )
    figures = made.metrics
    assert figures["l0"] == figures["l0_row_by_row"] == 1.0
    assert figures["fvu"] == pytest.approx(figures["fvu_row_by_row"])
    loaded = Decomposition.from_pretrained(tmp_path / "final")
    assert isinstance(loaded.dictionary.selection, TopOfRow)
