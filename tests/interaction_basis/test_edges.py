from itertools import product

import pytest
import torch
from torch import nn

from subscape.interaction_basis import Chain, build_bases, build_graph
from subscape.interaction_basis.basis import raw_basis
from subscape.interaction_basis.edges import completeness_error, interactions, interactions_by_vjp
from subscape.interaction_basis.quadrature import GRADIENT, gauss_legendre


@pytest.mark.parametrize("name", ["tanh", "relu", "mod-add", "linear", "sequence"])
@pytest.mark.parametrize("method", ["lib", "pca"])
def test_forward_mode_is_the_loop_of_backward_passes(example, name, method):
    case = example(name)
    bases = case.bases(last="raw").of(method)
    ways = product((GRADIENT, gauss_legendre(3)), ("mean", "zero"), enumerate(case.chain.sections))
    for quadrature, baseline, (layer, section) in ways:
        options = {"quadrature": quadrature, "baseline": baseline}
        values = case.chain.nodes(case.inputs[:6])[layer]
        pair = bases[layer], bases[layer + 1]
        slow = interactions_by_vjp(section, *pair, [values], **options)
        fast = interactions(section, *pair, values.split(4), **options)
        plain = interactions(lambda f, s=section: s(f), *pair, values.split(4), **options)
        assert (fast - slow).abs().max() <= 1e-10 * slow.max()
        assert (plain - slow).abs().max() <= 1e-10 * slow.max()


def test_edges_are_those_at_the_projection_onto_the_directions_kept(example):
    case = example("tanh")
    bases = case.bases(rtol=0.5).pca
    assert bases[0].rank < bases[0].width
    section, values = case.chain.sections[0], case.inputs[:10]
    slow = interactions_by_vjp(section, *bases[:2], [values])
    for fast in (section, lambda f: section(f)):
        edges = interactions(fast, *bases[:2], [values])
        assert (edges - slow).abs().max() <= 1e-10 * slow.max()
    # The activations themselves have other slopes.
    inside = bases[0].decode(bases[0].encode(values))
    assert torch.allclose(interactions(section, *bases[:2], [inside]), slow)
    assert not torch.allclose(section.slope(values), section.slope(inside), rtol=1e-2)


def test_an_edge_by_hand():
    # One section y = x0 x1 at the two points (1, 2) and (3, 1), bases the coordinates themselves, mean 0:
    # A_0 = x1 x0 = 2 and 3, A_1 the same; E = (4 + 9) / 2 for both.
    points = torch.tensor([[1.0, 2.0], [3.0, 1.0]]).double()
    section = lambda f: f[:, :1] * f[:, 1:]  # noqa: E731
    edges = interactions(section, raw_basis("x", 2), raw_basis("y", 1), [points])
    assert edges.tolist() == [[6.5, 6.5]]
    # On the path from zero the Jacobian halves: A = 1 and 1.5, E = (1 + 2.25) / 2.
    options = {"quadrature": gauss_legendre(2), "baseline": "zero"}
    edges = interactions(section, raw_basis("x", 2), raw_basis("y", 1), [points], **options)
    assert edges[0].tolist() == pytest.approx([1.625, 1.625])


def test_input_positions_are_summed_before_the_square():
    # Two positions to one: y = x_0 + x_1 with x = (1, -1): the sum is 0, not 1 + 1.
    points = torch.tensor([[[1.0], [-1.0]], [[1.0], [2.0]]]).double()
    summed = lambda f: f.sum(1, keepdim=True)  # noqa: E731
    edges = interactions(summed, raw_basis("x", 1), raw_basis("y", 1), [points])
    # (0 + 9) over 2 samples x 2 input positions.
    assert edges.item() == 9 / 4


class Fused(nn.Module):
    def forward(self, values):
        heads = values[:, None]
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        return values + mixed[:, 0]


def test_fused_attention_is_written_out_and_said_so():
    inputs = torch.randn(12, 4, 8).double()
    chain = Chain(("x", "y"), (Fused(),))
    bases = build_bases(chain, inputs)
    with pytest.warns(UserWarning, match="fused attention"):
        graph = build_graph(chain, bases, inputs)
    slow = interactions_by_vjp(chain.sections[0], *graph.bases, [inputs])
    assert (graph.edges[0] - slow).abs().max() <= 1e-10 * slow.max()


class NoForwardMode(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(values):
        return values * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def test_other_errors_of_a_section_are_its_own():
    chain = Chain(("x", "y"), (NoForwardMode.apply,))
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    bases = build_bases(chain, inputs)
    with pytest.raises((RuntimeError, NotImplementedError)):
        build_graph(chain, bases, inputs)


def test_attributions_add_up_along_a_path_and_not_at_its_end(example):
    for name, small in (("tanh", 1e-3), ("linear", 1e-10)):
        case = example(name)
        bases = case.bases().lib
        values = [case.chain.nodes(case.inputs)[0]]
        at_end, along = (
            completeness_error(case.chain.sections[0], *bases[:2], values, quadrature=rule)
            for rule in (GRADIENT, gauss_legendre(8))
        )
        assert along <= small
        assert at_end <= small if name == "linear" else at_end >= 0.1


def test_the_completeness_error_by_hand():
    # x squared at 3: the gradient 6 times 3 is 18, twice the change of 9.
    one = raw_basis("x", 1)
    values = [torch.tensor([[3.0]]).double()]
    assert completeness_error(torch.square, one, one, values) == pytest.approx(1.0)
