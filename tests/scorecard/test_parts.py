"""The numbers of every section, by hand on small cases."""

import pytest
import torch
from torch import nn

from subscape import GradientSource, Target
from subscape.lowrank import make_layout
from subscape.lowrank.project import project
from subscape.measures import auroc
from subscape.measures.two_sets import aurocs
from subscape.rows import generator_of
from subscape.scorecard import pushes
from subscape.scorecard.adversary import Row, moves
from subscape.scorecard.agreement import ANY, largest, shares, shuffled
from subscape.scorecard.autoencoder import train_autoencoder
from subscape.scorecard.case import sparse
from subscape.scorecard.features import Features
from subscape.scorecard.kinds import kinds_of
from subscape.scorecard.loudness import fvu, loudest, share
from subscape.scorecard.probes import apart, codes_of, probed
from subscape.scorecard.record import Column, Section, line
from subscape.scorecard.separation import best_of
from subscape.scorecard.spans import centres, principal
from subscape.scorecard.stability import correlations, figures
from subscape.scorecard.twin import randomised
from subscape.scorecard.units import shared_module, units_of
from subscape.scorecard.word_class import word_classes

# Ranks


def test_areas_by_hand_with_ties():
    values = torch.tensor([[3.0, 1.0], [2.0, 1.0], [2.0, 1.0], [1.0, 0.0]])
    positive = torch.tensor([[True], [True], [False], [False]])
    # First figure: pairs 3>2, 3>1, 2=2, 2>1. Second: 1=1, 1>0, 1=1, 1>0.
    assert aurocs(values, positive).tolist() == [[3.5 / 4, 3 / 4]]


def test_areas_are_those_pair_by_pair():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 5, (40, 3), generator=generator).float()
    positive = torch.rand(40, 2, generator=generator) < 0.4
    found = aurocs(values, positive)
    for c in range(2):
        for k in range(3):
            inside, outside = values[positive[:, c], k], values[~positive[:, c], k]
            assert found[c, k].item() == pytest.approx(auroc(inside, outside))


def test_a_class_of_all_or_none_has_no_area():
    positive = torch.tensor([[True, False], [True, False]])
    assert aurocs(torch.tensor([[1.0], [2.0]]), positive).isnan().all()


# Directions out of rows


def test_principal_directions_are_those_of_the_singular_vectors():
    rows = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).double()
    span = principal(rows @ rows.mT, 2)
    right = torch.linalg.svd(rows, full_matrices=False).Vh[:2]
    directions = span.weights.mT @ rows
    torch.testing.assert_close((directions @ right.mT).abs(), torch.eye(2).double())
    torch.testing.assert_close(span.gram, torch.eye(2).double())
    torch.testing.assert_close(span.inner(rows @ rows.mT), rows @ directions.mT)


def test_centres_are_means_of_unit_rows():
    # Two bundles of one direction each, of whatever length; a row of zeros has none.
    rows = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 3.0], [0.0, 1.0], [0.0, 0.0]]).double()
    found = {
        tuple((centres(rows @ rows.mT, 2, s).weights.mT @ rows).flatten().tolist())
        for s in range(9)
    }
    assert (1.0, 0.0, 0.0, 1.0) in found or (0.0, 1.0, 1.0, 0.0) in found


def test_the_largest_stay():
    values = torch.tensor([[3.0, -2.0], [1.0, 0.5]])
    assert sparse(values, 1.0).tolist() == [[3.0, -2.0], [0.0, 0.0]]


# What rows share


@pytest.mark.parametrize(
    ("values", "size"), [([1, 1, 2], 2), ([-1, -1, -1], 1), ([], 0), ([-1, 4], 1)]
)
def test_unknown_ones_agree_with_nobody(values, size):
    assert largest(values) == size


def test_shares_by_hand():
    kinds = {"a": torch.tensor([1] * 8 + [2, 3] + [4] * 10), "b": torch.arange(20)}
    groups = [torch.arange(10), torch.arange(10, 20), torch.tensor([0, 8, 9])]
    assert shares(groups, kinds) == {"a": 2 / 3, "b": 0, ANY: 2 / 3}
    dealt = shuffled(groups, 0)
    assert [len(g) for g in dealt] == [10, 10, 3]
    assert sorted(torch.cat(dealt).tolist()) == sorted(torch.cat(groups).tolist())


def test_words_have_classes():
    texts = ["Once", " the", " cat", " play", "ed", " with", " Lily", ".", " She", " was", " 3"]
    assert word_classes(texts) == [
        *("word once", "determiner", "word cat", "past form", "past form", "preposition"),
        *("name", "punctuation .", "pronoun", "auxiliary", "number"),
    ]


def test_tokens_are_known_by_position():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    ids = torch.tensor([[1, 2, 3], [4, 0, 2]])
    source = GradientSource(Target(model), ids, divergence="kl", rows="token", reference="uniform")
    kinds = kinds_of(source, torch.tensor([1, 0]), torch.tensor([7, 8]), lambda i: f" {'abcde'[i]}")
    assert kinds["token"].tolist() == [4, 0, 2, 1, 2, 3]
    assert kinds["next token"].tolist() == [0, 2, -1, 2, 3, -1]
    assert kinds["label"].tolist() == [8, 8, 8, 7, 7, 7]
    words = kinds["word class"].tolist()
    # " a" is a determiner, " c" and " d" words of no class.
    assert words[2] == words[4] != words[5]
    assert (kinds["word class"] >= 0).all()


def test_a_class_that_is_predicted_stands_for_a_label():
    model = nn.Linear(2, 2, bias=False)
    model.weight.data.copy_(torch.eye(2))
    source = GradientSource(Target(model), torch.tensor([[2.0, 1.0], [0.0, 1.0]]), divergence="kl")
    assert kinds_of(source, torch.arange(2), None, None)["predicted class"].tolist() == [0, 1]


# Loudness


def test_loudness_by_hand():
    squares = torch.tensor([1.0] * 9 + [11.0]).double()
    assert share(squares) == pytest.approx(0.55)
    loud = loudest(squares)
    assert loud.nonzero().tolist() == [[9]]
    assert fvu(torch.tensor([0.5] * 9 + [1.1]).double(), squares, loud) == pytest.approx((0.1, 0.5))


# Pushes


def test_delta_is_where_the_change_is_what_is_aimed_at():
    assert pushes.delta_at(lambda d: 0.4 * d**2, 0.1) == pytest.approx(0.5, rel=0.03)
    assert pushes.delta_at(lambda d: d, 50.0) == pytest.approx(50, rel=0.06)
    assert pushes.delta_at(lambda _: 0.0, 0.1) is None
    assert pushes.delta_at(lambda d: min(d, 0.05), 0.1) is None


def test_a_push_by_hand():
    """f = w·x with x one of two features; along w_0 only rows with the first one move, by δ² x²."""
    model = nn.Linear(2, 1, bias=False)
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.1, 1.0]])
    source = GradientSource(Target(model), rows, reference="uniform")
    scene = pushes.Scene.of(source, torch.arange(5), aim=1.0)
    top = torch.tensor([True, True, False, False, False])
    push = pushes.push(scene, {"weight": torch.tensor([[1.0, 0.0]])}, top)
    # The lower of the medians of 1 and 4 is 1: δ = 1. The others move by 0, 0 and 0.01.
    assert push is not None
    assert push.delta == pytest.approx(1, rel=0.05)
    assert push.auroc == 1
    assert push.share == pytest.approx(5 / 5.01, rel=1e-3)
    assert pushes.push(scene, {"weight": torch.tensor([[0.0, 0.0]])}, top) is None


# Adversary


def row_of(x, width):
    model = nn.Linear(width, 1, bias=False)
    return Row(Target(model), x, None, GradientSource(Target(model), x.repeat(2, 1)).divergence)


def test_ascent_finds_the_best_combination():
    """f = w·x, D = (change)²: along unit vectors e_k the best coefficients of length δ are δ x / ‖x‖."""
    x = torch.tensor([[3.0, 4.0, 0.0]])
    row = row_of(x, 3)
    stack = project(make_layout({"weight": (1, 3)}, 1), torch.eye(3))
    drawn, early, late = moves(row, stack, 0.5, 60, generator_of(0))
    assert drawn < early <= late
    assert late == pytest.approx((0.5 * 5) ** 2, rel=1e-3)
    # Directions in which nothing lies move nothing.
    nothing = moves(row, stack.select(torch.tensor([2])), 0.5, 60, generator_of(0))
    assert nothing == pytest.approx([0, 0, 0], abs=1e-9)


def test_lengths_are_those_in_parameter_space():
    """Two equal directions add up: their coefficients are held shorter."""
    row = row_of(torch.tensor([[1.0, 0.0]]), 2)
    stack = project(make_layout({"weight": (1, 2)}, 1), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert moves(row, stack, 2.0, 30, generator_of(0))[2] == pytest.approx(4, rel=1e-4)


# Probes


def test_means_apart_by_hand():
    values = torch.tensor([[0.0], [2.0], [4.0], [2.0]]).double()
    positive = torch.tensor([[False], [False], [True], [True]])
    assert apart(values, positive).item() == pytest.approx(2 / values.std().item())


def test_a_probe_takes_the_figure_that_tells():
    generator = torch.Generator().manual_seed(0)
    fit, held = torch.randn(2, 80, 7, generator=generator).double()
    known, scored = fit[:, [4]] > 0, held[:, [4]] > 0
    linear_model = pytest.importorskip("sklearn.linear_model")
    assert probed(linear_model, fit, held, known, scored)[0].item() == 1


def test_codes_are_sparse_and_neurons_dense_or_sparse_too():
    values = torch.tensor([[3.0, -2.0], [1.0, 0.5]])
    ((name, fit, held),) = codes_of(Features("f", values, values.flip(0)), 1.0)
    assert (name, fit.tolist()) == ("f", [[3.0, -2.0], [0.0, 0.0]])
    assert held.tolist() == [[0.0, 0.0], [3.0, -2.0]]
    # In standard units the two that stand out are equal, whatever their scale.
    neurons = torch.tensor([[10.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    (_, every, _), (_, largest, _) = codes_of(Features("n", neurons, neurons, neurons=True), 2 / 3)
    assert every.tolist() == neurons.tolist()
    assert (largest != 0).tolist() == [[True, False], [False, False], [False, True]]


def test_the_best_figure_is_chosen_on_other_rows():
    # On the rows to fit on the second is best, on those to score the first.
    fit = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    held = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    known = torch.tensor([[True], [False]])
    assert best_of(Features("f", fit, held), known, known).tolist() == [0]
    # Of neurons the small end counts too: the first one, chosen for its small values, then is wrong.
    assert best_of(Features("f", fit[:, :1], held[:, :1], neurons=True), known, known).tolist() == [
        0
    ]


def test_an_autoencoder_finds_sparse_features():
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(0, 8, (600,), generator=generator)
    activations = nn.functional.one_hot(which, 8) * (1 + torch.rand(600, 1, generator=generator))
    model = train_autoencoder(activations, 16, 1.0)
    assert model.fvu(activations) < 0.02
    assert (model.codes(activations) != 0).sum() == 600


# Stability


def test_codes_in_another_order_and_sign_are_the_same():
    codes = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    others = -codes[:, [2, 0, 1]]
    assert figures(codes, others) == pytest.approx((1.0, 1.0))
    assert correlations(codes, torch.zeros(50, 2)).tolist() == [[0, 0]] * 3


# Activations


def test_units_are_those_of_the_modules_that_hold_the_parameters():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model = nn.Sequential(block, nn.Linear(2, 5))
    x = torch.randn(7, 3)
    source = GradientSource(Target(model, "0"), x)
    neurons, output = units_of(source, torch.tensor([3, 1]))
    torch.testing.assert_close(output, block(x[[3, 1]]).detach())
    torch.testing.assert_close(
        neurons, torch.cat([block[0](x[[3, 1]]), block(x[[3, 1]])], 1).detach()
    )
    assert not block[0]._forward_hooks
    assert shared_module(["a.b.c.weight", "a.b.d.bias"]) == "a.b"
    assert shared_module(["a.weight", "b.weight"]) == ""


def test_units_of_images_are_means_of_channels_and_of_tokens_every_position():
    images = torch.randn(4, 1, 5, 5)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 3))
    neurons, output = units_of(GradientSource(Target(model, "0"), images), torch.arange(4))
    torch.testing.assert_close(neurons, model[0](images).mean((2, 3)).detach())
    assert output is neurons or torch.equal(output, neurons)
    words = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    ids = torch.randint(0, 5, (4, 6))
    source = GradientSource(Target(words, "0"), ids, divergence="kl", rows="token")
    neurons, _ = units_of(source, torch.arange(4))
    torch.testing.assert_close(neurons, words[0](ids).flatten(0, 1).detach())


# Twin


def test_random_weights_are_the_same_numbers_elsewhere():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).eval()
    before = {name: v.clone() for name, v in model.state_dict().items()}
    inputs = torch.randn(40, 6)
    other = randomised(Target(model), inputs, seed=1)
    for name, values in model.named_parameters():
        twin = dict(other.named_parameters())[name]
        assert torch.equal(values, before[name])
        assert torch.equal(twin.flatten().sort().values, values.flatten().sort().values)
    assert not torch.equal(other[0].weight, model[0].weight)
    # Batch norm goes by what the new weights give.
    torch.testing.assert_close(other[1].running_mean, other[0](inputs).mean(0).detach())
    assert not other.training and not other[1].training
    assert torch.equal(model[1].running_mean, before["1.running_mean"])


# The record


def test_a_section_prints_as_a_table():
    columns = (Column("share", "high", True), Column("FVU", "low"))
    section = Section(
        "k", "Title", columns, (line("ours", 0.123, None, ours=True), line("c", 1.0, 2.5))
    )
    assert str(section).splitlines() == [
        "Title",
        "          share ↑  FVU ↓",
        "  * ours    12.3%      –",
        "    c      100.0%    2.5",
    ]
    assert section.value("c", "FVU") == 2.5
    with pytest.raises(KeyError, match="not among"):
        section.value("c", "L0")
    with pytest.raises(ValueError, match="2 figures"):
        Section("k", "t", columns, (line("x", 1.0),))
