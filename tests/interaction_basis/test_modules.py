import sys

import pytest
import torch

from subscape.interaction_basis import (
    BasisConfig,
    InteractionGraph,
    build_bases,
    build_graph,
    find_modules,
    sequential_chain,
)
from subscape.interaction_basis.basis import raw_basis
from subscape.interaction_basis.modules import log_weights, weighted_graph


def two_blocks(n_layers=3):
    """Directions 0-1 and 2-3 interact within, one weak edge goes across."""
    block = torch.full((2, 2), 100.0).double()
    edges = torch.block_diag(block, block)
    edges[0, 3] = 2.0
    bases = tuple(raw_basis(f"n{k}", 4) for k in range(n_layers))
    return InteractionGraph(bases, tuple(edges.clone() for _ in range(n_layers - 1)))


def test_log_weights_by_hand():
    edges = torch.tensor([[100.0, 10.0], [1.0, 0.0]]).double()
    assert log_weights(edges, 10.0).tolist() == [[1.0, 0.0], [0.0, 0.0]]
    with pytest.raises(ValueError, match="threshold: expected a number above 0"):
        log_weights(edges, 0.0)


@pytest.mark.parametrize("library", ["networkx", "networkit", "scikit-network"])
def test_two_blocks_are_two_modules(library):
    pytest.importorskip({"scikit-network": "sknetwork"}.get(library, library))
    graph = two_blocks()
    found = find_modules(graph, [1.0, 1.0], last_layer=True, library=library)
    assert found.sizes == [6, 6]
    assert [m.directions(1) for m in found.modules] == [(0, 1), (2, 3)]
    # 16 edges of log10(100) = 2 inside, 2 of log10(2) across; both modules hold half of the weight.
    across = 2 * torch.tensor(2.0).double().log10().item()
    share = across / (32 + across)
    assert found.cross_weight == pytest.approx(share)
    assert found.modularity == pytest.approx(1 - share - 0.5)
    assert found.of()[(2, 3)] == 1


def test_modularity_is_that_at_resolution_1_whatever_the_communities_are_found_at():
    graph = two_blocks()
    one, half = (find_modules(graph, [1.0, 1.0], last_layer=True, resolution=r) for r in (1.0, 0.5))
    assert one.modules == half.modules
    assert half.modularity == pytest.approx(one.modularity)
    assert half.resolution == 0.5


def test_the_last_layer_takes_part_only_when_asked_and_edges_only_above_their_threshold():
    graph = two_blocks()
    assert {layer for layer, _ in weighted_graph(graph, [1.0, 1.0])} == {0, 1}
    assert {layer for layer, _ in weighted_graph(graph, [1.0, 1.0], True)} == {0, 1, 2}
    with pytest.raises(ValueError, match="thresholds: expected one for each of 2"):
        find_modules(graph, [1.0], last_layer=True)
    with pytest.raises(ValueError, match="at least two node layers .* Set last_layer"):
        find_modules(two_blocks(2), [1.0])
    assert find_modules(two_blocks(), [1e9, 1e9]).modules == ()


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkit", None)
    with pytest.raises(ImportError, match="networkit: expected to be installed"):
        find_modules(two_blocks(), [1.0, 1.0], library="networkit")


def block_diagonal_mlp():
    """Width 8, two random blocks of 4 in every one of five layers, no bias, ReLU."""
    layers = []
    generator = torch.Generator().manual_seed(0)
    blocks = [2 * torch.randn(4, 4, generator=generator) for _ in range(2)]
    for _ in range(5):
        linear = torch.nn.Linear(8, 8, bias=False).double()
        linear.weight.data = torch.block_diag(*blocks).double()
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def strongest_across(inputs):
    """The graph, the block of every direction, and the largest edge across as a share of all."""
    chain = sequential_chain(block_diagonal_mlp())
    bases = build_bases(chain, inputs, BasisConfig(last="raw", batch_size=2500))
    graph = build_graph(chain, bases, inputs)
    power = [basis.back.square() for basis in graph.bases]
    block = [p[:, :4].sum(1) < p[:, 4:].sum(1) for p in power]
    shares = [
        edges[block[layer + 1][:, None] != block[layer]].max() / edges.max()
        for layer, edges in enumerate(graph.edges)
    ]
    return graph, block, float(max(shares))


def test_a_block_diagonal_mlp_has_two_modules_and_no_edge_between_them():
    one, other = torch.randn(2, 100, 4).double()
    # Every pair of the two: the blocks are exactly independent over these 10,000 points.
    inputs = torch.cat([one.repeat_interleave(100, 0), other.repeat(100, 1)], 1)
    graph, block, share = strongest_across(inputs)
    assert share <= 1e-12
    found = find_modules(graph, [1e-4 * float(e.max()) for e in graph.edges], resolution=0.5)
    assert len(found.modules) == 2
    assert found.cross_weight == pytest.approx(0)
    for module in found.modules:
        assert len({int(block[layer][direction]) for layer, direction in module.members}) == 1
    # Independent samples leave only weak edges between the blocks.
    assert strongest_across(torch.randn(10_000, 8).double())[2] <= 1e-2
