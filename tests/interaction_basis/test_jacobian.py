from itertools import product

import pytest
import torch

from subscape.interaction_basis.jacobian import jacobian_gram, jacobian_gram_by_loop
from subscape.interaction_basis.probes import Signs
from subscape.interaction_basis.quadrature import GRADIENT, gauss_legendre

CASES = [
    (name, layer)
    for name, layers in {"tanh": 3, "relu": 3, "mod-add": 3, "linear": 2, "sequence": 3}.items()
    for layer in range(layers)
]


def setting(example, name, layer):
    case = example(name)
    nodes = case.chain.nodes(case.inputs)
    width = nodes[layer + 1].shape[-1]
    into = torch.randn(width, width - 1, generator=torch.Generator().manual_seed(1)).double()
    mean = nodes[layer].flatten(0, -2).mean(0)
    return case.chain.sections[layer], into, nodes[layer], mean


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_closed_form_and_backward_passes_are_the_loop(example, name, layer):
    section, into, values, mean = setting(example, name, layer)
    for quadrature, baseline in product((GRADIENT, gauss_legendre(3)), ("mean", "zero")):
        options = {"quadrature": quadrature, "baseline": baseline}
        slow = jacobian_gram_by_loop(section, into, [values[:7]], mean, **options)
        fast = jacobian_gram(section, into, values[:7].split(4), mean, **options)
        # A lambda hides the closed form, so that both ways are compared.
        plain = jacobian_gram(lambda f: section(f), into, values[:7].split(4), mean, **options)
        scale = slow.abs().max()
        assert (fast - slow).abs().max() <= 1e-10 * scale
        assert (plain - slow).abs().max() <= 1e-10 * scale


@pytest.mark.parametrize(
    ("few", "many"), [((1, None), (400, None)), ((None, 1), (None, 400)), ((1, 1), (20, 20))]
)
def test_random_signs_come_closer_with_more_draws(example, few, many):
    section, into, values, mean = setting(example, "sequence", 0)
    exact = jacobian_gram(section, into, [values], mean)

    def error(draws):
        off = jacobian_gram(section, into, [values], mean, signs=Signs(*draws, seed=1)) - exact
        return float(off.norm() / exact.norm())

    # Four hundred times the draws: the error falls with the root, to about a twentieth.
    assert error(many) < 0.03
    assert error(many) < error(few) / 4


def test_signs_over_positions_are_exact_where_there_is_one(example):
    section, into, values, mean = setting(example, "mod-add", 0)
    exact = jacobian_gram(section, into, [values], mean)
    drawn = jacobian_gram(section, into, [values], mean, signs=Signs(positions=1))
    assert torch.allclose(drawn, exact, atol=1e-12)
    with pytest.raises(ValueError, match="positions: expected a whole number of at least 1"):
        Signs(positions=0)


def test_gauss_legendre_is_exact_for_polynomials():
    points, weights = gauss_legendre(3)
    for power in range(6):
        wanted = 1 / (power + 1)
        found = sum(w * p**power for p, w in zip(points, weights, strict=True))
        assert found == pytest.approx(wanted)
    with pytest.raises(ValueError, match="n_points"):
        gauss_legendre(0)


def test_weights_that_want_gradients_leave_no_graph_behind(example):
    section, into, values, mean = setting(example, "sequence", 0)
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    found = jacobian_gram(lambda f: section(f * weight), into, [values], mean)
    assert not found.requires_grad
    assert torch.equal(found, jacobian_gram(section, into, [values], mean))


def test_the_path_starts_at_the_baseline():
    # y = x^2 at 1 and 3, mean 2, Jacobian 2 x halfway: from zero 1 and 3, from the mean 3 and 5.
    values, mean, into = torch.tensor([[1.0], [3.0]]).double(), torch.tensor([2.0]), torch.eye(1)
    for baseline, wanted in (("zero", (1 + 9) / 2), ("mean", (9 + 25) / 2)):
        options = {"quadrature": gauss_legendre(1), "baseline": baseline}
        gram = jacobian_gram(torch.square, into, [values], mean, **options)
        assert gram.item() == pytest.approx(wanted)
