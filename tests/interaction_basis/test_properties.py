"""Properties (a) to (h) of the method, exact in float64."""

import dataclasses

import pytest
import torch
from torch import nn

from subscape.interaction_basis import (
    Affine,
    BasisConfig,
    Chain,
    Mlp,
    build_bases,
    build_graph,
    sequential_chain,
)
from subscape.interaction_basis.jacobian import jacobian_gram_by_loop


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def orthogonal(width, seed=0):
    return torch.linalg.qr(draw(width, width, seed=seed)).Q


@pytest.mark.parametrize("name", ["tanh", "relu", "mod-add", "linear", "sequence"])
@pytest.mark.parametrize("last", ["raw", "pca"])
def test_a_to_d(example, name, last):
    case = example(name)
    bases = case.bases(last=last)
    nodes = case.chain.nodes(case.inputs)
    for layer, (lib, pca) in enumerate(zip(bases.lib, bases.pca, strict=True)):
        eye, rows = torch.eye(lib.rank).double(), nodes[layer].flatten(0, -2)
        # (a) The inverse is a left inverse, and its rows lie in the span of the data, which
        # pinv(into) does not promise.
        assert (lib.back @ lib.into - eye).abs().max() <= 5e-11
        inside = lib.back @ pca.into @ pca.back
        assert torch.allclose(inside, lib.back, atol=1e-9 * float(lib.back.abs().max()))
        # (d) Means are zero, and the origin decodes to the mean.
        if lib.kind != "raw":
            size = float(lib.importance.max().sqrt())
            assert lib.encode(rows).mean(0).abs().max() <= 1e-11 * size
            assert torch.equal(lib.decode(rows.new_zeros(lib.rank)), lib.mean)
            assert torch.allclose(lib.mean, rows.mean(0))
            # (b) Variances are the importances, and activations are uncorrelated.
            second = lib.encode(rows).mT @ lib.encode(rows) / len(rows)
            assert torch.allclose(second, lib.importance.diag(), atol=1e-9 * float(second.max()))
        # (c) The mean square Jacobian is the identity.
        if layer < len(case.chain):
            section, into = case.chain.sections[layer], bases.lib[layer + 1].into
            gram = jacobian_gram_by_loop(section, into, [nodes[layer]], lib.mean)
            assert torch.allclose(lib.back @ gram @ lib.back.mT, eye, atol=1e-7)


def test_a_the_inverse_is_not_the_pseudo_inverse(example):
    bases = example("tanh").bases()
    assert not torch.allclose(torch.linalg.pinv(bases.lib[1].into), bases.lib[1].back, atol=1e-3)


def test_e_edges_of_linear_sections_are_diagonal_and_sum_to_the_importances(example):
    case = example("linear")
    bases = case.bases()
    graph = build_graph(case.chain, bases, case.inputs)
    for layer, edges in enumerate(graph.edges):
        importance = bases.lib[layer].importance
        assert torch.allclose(edges.sum(0), importance, rtol=3e-8)
        off = edges - edges.diagonal().diag()
        assert off.abs().max() <= 1e-12 * edges.max()


@pytest.mark.parametrize("last", ["raw", "pca"])
def test_f_rotating_the_last_layer_changes_nothing_before_it(example, last):
    case = example("tanh")
    bases = case.bases(last=last)
    rotation = orthogonal(3)
    *before, final = case.chain.sections
    turned = Affine(final.weight @ rotation, final.bias @ rotation)
    chain = dataclasses.replace(case.chain, sections=(*before, turned))
    others = build_bases(chain, case.inputs, bases.config)
    graphs = [build_graph(c, b, case.inputs) for c, b in ((case.chain, bases), (chain, others))]
    for layer in range(len(chain)):
        assert torch.allclose(others.lib[layer].importance, bases.lib[layer].importance, rtol=1e-9)
    for layer in range(len(chain) - 1):
        assert torch.allclose(graphs[0].edges[layer], graphs[1].edges[layer], rtol=1e-6)


def test_g_an_invertible_reparametrisation_of_a_hidden_layer_changes_nothing():
    section = Mlp(draw(5, 9), draw(9), torch.tanh, draw(9, 6, seed=1), draw(6), None)
    after = Mlp(draw(6, 8, seed=2) / 3, draw(8), torch.tanh, draw(8, 4, seed=3))
    change = draw(6, 6, seed=4)
    back = torch.linalg.inv(change)
    section_changed = dataclasses.replace(
        section, write=section.write @ change, write_bias=section.write_bias @ change
    )
    after_changed = dataclasses.replace(after, read=back @ after.read)
    names, inputs = ("x", "hidden", "y"), draw(200, 5, seed=5)
    chains = [Chain(names, (section, after)), Chain(names, (section_changed, after_changed))]
    assert torch.allclose(chains[0].outputs(inputs), chains[1].outputs(inputs))
    bases = [build_bases(chain, inputs) for chain in chains]
    graphs = [build_graph(c, b, inputs) for c, b in zip(chains, bases, strict=True)]
    for one, other in zip(bases[0].lib, bases[1].lib, strict=True):
        assert one.rank == other.rank
        assert torch.allclose(one.importance, other.importance, rtol=1e-6)
    for one, other in zip(graphs[0].edges, graphs[1].edges, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-9 * float(one.max()))
    # PCA does change: the claim is not empty.
    assert not torch.allclose(bases[0].pca[1].importance, bases[1].pca[1].importance, rtol=1e-2)


def folded(chain, inputs):
    """Importances by the published algebra: a constant coordinate in every stream, moved by Y."""

    def extend(section):
        # Biases are read off the constant coordinate, as folding does.
        if isinstance(section, Affine):
            return lambda f: torch.cat(
                [f[:, :-1] @ section.weight + f[:, -1:] * section.bias, f[:, -1:]], 1
            )
        read, bias, activation = section.read, section.read_bias, section.activation
        return lambda f: torch.cat([activation(f[:, :-1] @ read + f[:, -1:] * bias), f[:, -1:]], 1)

    sections = [extend(s) for s in chain.sections]
    nodes = [torch.cat([n, n.new_ones(len(n), 1)], 1) for n in chain.nodes(inputs)]
    found = []
    into_next = torch.eye(nodes[-1].shape[1]).double()[:, :-1]
    for layer in reversed(range(len(sections))):
        values = nodes[layer]
        mean = values.mean(0)
        move = torch.eye(len(mean)).double()
        move[-1, :-1] = -mean[:-1]
        move_back = torch.eye(len(mean)).double()
        move_back[-1, :-1] = mean[:-1]
        centred = values @ move
        d, u = torch.linalg.eigh(centred.mT @ centred / len(values))
        const = int((u[-1].abs() > 1e-6).nonzero()[:, 0].item())
        order = [const, *(k for k in reversed(range(len(d))) if k != const)]
        d, u = d[order], u[:, order]
        r = move @ u / d.sqrt()
        r_inverse = d.sqrt()[:, None] * u.mT @ move_back
        gram = jacobian_gram_by_loop(sections[layer], into_next, [values], mean)
        m = r_inverse @ gram @ r_inverse.mT
        importance, rotation = torch.linalg.eigh(m[1:, 1:])
        rotation = torch.block_diag(torch.ones(1, 1).double(), rotation.flip(1))
        importance = torch.cat([m[:1, 0], importance.flip(0)])
        kept = importance > 1e-10 * importance.max()
        importance = importance[kept]
        into_next = r @ rotation[:, kept] * importance.sqrt()
        found.append(importance[1:])
    return found[::-1]


def test_h_a_folded_constant_direction_gives_the_same_importances():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape))
    chain = sequential_chain(model.double())
    inputs = draw(80, 4, seed=8)
    plain = build_bases(chain, inputs, BasisConfig(last="raw"))
    for wanted, basis in zip(folded(chain, inputs), plain.lib, strict=False):
        assert torch.allclose(wanted, basis.importance, rtol=1e-6)


def test_the_final_target_is_the_next_one_for_the_last_section_only(example):
    case = example("tanh")
    near = case.bases()
    far = case.bases(target="final")
    assert torch.equal(far.lib[2].into, near.lib[2].into)
    assert not torch.allclose(far.lib[0].importance, near.lib[0].importance, rtol=1e-3)
    gram = jacobian_gram_by_loop(
        case.chain.part(0, 3), far.lib[3].into, [case.inputs], far.lib[0].mean
    )
    found = far.lib[0].back @ gram @ far.lib[0].back.mT
    assert torch.allclose(found, torch.eye(far.lib[0].rank).double(), atol=1e-8)


def test_isolated_coordinates_come_first_and_stay_alone(example):
    case = example("sequence")
    chain = dataclasses.replace(case.chain, isolated=(0, 1, 0, 0))
    bases = build_bases(chain, case.inputs)
    for basis in (bases.lib[1], bases.pca[1]):
        assert basis.n_isolated == 1
        first = basis.into[:, 0]
        assert first[1:].abs().max() == 0
        assert basis.into[0, 1:].abs().max() == 0
        assert torch.allclose(basis.back @ basis.into, torch.eye(basis.rank).double(), atol=1e-10)
    lib, values = bases.lib[1], case.chain.nodes(case.inputs)[1]
    # The scale is that of the others: variance = importance, mean square Jacobian 1.
    variance = lib.encode(values).square().flatten(0, -2).mean(0)
    assert torch.allclose(variance, lib.importance, rtol=1e-9)
    gram = jacobian_gram_by_loop(chain.sections[1], bases.lib[2].into, [values], lib.mean)
    unit = (lib.back @ gram @ lib.back.mT).diagonal()
    assert torch.allclose(unit, torch.ones(lib.rank).double(), atol=1e-8)


def test_constant_layers_and_dead_sections_are_named():
    inputs = draw(20, 3)
    with pytest.raises(ValueError, match="'y': expected activations that vary"):
        build_bases(Chain(("x", "y"), (lambda f: f * 0 + 1,)), inputs)
    dead = Mlp(torch.eye(3).double(), torch.full((3,), -100.0).double(), torch.relu)
    with pytest.raises(ValueError, match="'x': expected an effect on the target"):
        build_bases(Chain(("x", "y"), (dead,)), inputs, BasisConfig(last="raw"))


WRONG = dict(target="other", last="none", baseline="one", path_points=-1) | dict(
    sign_positions=0, sign_directions=-1, batch_size=0
)


def test_settings_are_checked(example):
    for name, value in WRONG.items():
        with pytest.raises((ValueError, TypeError)):
            BasisConfig(**{name: value})
    for rtol in (-0.1, 1.0):  # 1 keeps nothing
        with pytest.raises(ValueError, match="rtol: expected a share"):
            example("tanh").bases(rtol=rtol)
