import dataclasses
from collections import Counter

import pytest
import torch

from subscape.interaction_basis import (
    ACCURACY,
    Affine,
    BasisConfig,
    Chain,
    InteractionGraph,
    Scored,
    Task,
    find_modules,
)
from subscape.interaction_basis.basis import raw_basis
from subscape.interaction_basis.null import chance, dense, swapped
from subscape.interaction_basis.stages import Shuffled
from subscape.interaction_basis.weights import Weights


def degrees(edges, end):
    return Counter(edge[end] for edge in edges)


def test_swaps_keep_degrees_and_weights_and_change_who_meets_whom():
    generator = torch.Generator().manual_seed(0)
    where = (torch.rand(8, 9, generator=generator) < 0.3).nonzero().tolist()
    edges = [(a, b, float(n)) for n, (a, b) in enumerate(where)]
    other = swapped(edges, seed=1)
    assert len({(a, b) for a, b, _ in other}) == len(edges)
    for end in (0, 1, 2):
        assert degrees(other, end) == degrees(edges, end)
    # Every edge keeps its weight and its first end.
    assert {(a, w) for a, _, w in other} == {(a, w) for a, _, w in edges}
    assert {(a, b) for a, b, _ in other} != {(a, b) for a, b, _ in edges}
    assert swapped(edges, seed=1) == other != swapped(edges, seed=2)
    # Nothing can change in a section in which all meet all.
    full = [(a, b, 1.0) for a in range(3) for b in range(3)]
    assert swapped(full, seed=0) == full
    assert swapped([(0, 0, 1.0)], seed=0) == [(0, 0, 1.0)]
    assert swapped([], seed=0) == []


def test_the_matrix_of_two_sections():
    weights = dense([[(0, 1, 2.0)], [(1, 0, 3.0)]], [1, 2, 1])
    # Nodes 0 | 1, 2 | 3.
    assert weights.nonzero().tolist() == [[0, 2], [2, 0], [2, 3], [3, 2]]
    assert weights[2].tolist() == [2, 0, 0, 3]


def test_z_and_p_by_hand():
    found = chance(0.6, [0.1, 0.2, 0.3])
    assert (found.z, found.p) == (pytest.approx(4.0), 0.25)
    # Of three graphs the deviation is hardly known.
    assert not found.beyond
    assert found.described == "z = 4.0 (27.1 needed beside 3), p = 0.25"
    low = chance(0.25, [0.1, 0.2, 0.3])
    assert (low.z, low.p) == (pytest.approx(0.5), 0.5)
    assert not low.beyond and low.described == "z = 0.5 (27.1 needed beside 3), p = 0.5"
    # Copies that are all alike say nothing.
    assert (chance(0.2, [0.2, 0.2]).z, chance(0.2, [0.2, 0.2]).p) == (0, 1)
    with pytest.raises(ValueError, match="at least 2 graphs"):
        chance(0.2, [0.1])


@pytest.mark.parametrize(("n", "needed"), [(5, 7.25), (10, 4.294), (100, 3.093)])
def test_beside_few_graphs_a_higher_z_is_needed(n, needed):
    """Student's t of n - 1 degrees where it is exceeded as rarely as a normal 3, times sqrt(1 + 1/n)."""
    values = torch.linspace(0, 1, n).tolist()
    assert chance(0.5, values).needed == pytest.approx(needed, rel=0.03)
    deviation = float(torch.tensor(values).std())
    assert chance(0.5 + 1.05 * needed * deviation, values).beyond
    assert not chance(0.5 + 0.95 * needed * deviation, values).beyond


def graph_of(edges):
    bases = tuple(raw_basis(f"n{k}", len(edges)) for k in range(3))
    return InteractionGraph(bases, (edges, edges))


def test_planted_modules_are_beyond_chance_and_random_edges_are_not():
    generator = torch.Generator().manual_seed(0)
    block = torch.arange(20) // 5
    inside = block[:, None] == block
    planted = torch.where(inside, 0.7, 0.05)
    drawn = torch.rand(2, 20, 20, generator=generator)
    for density, expected in ((planted, True), (torch.full((20, 20), 0.2), False)):
        edges = (drawn[0] < density) * (1 + 99 * drawn[1])
        found = find_modules(graph_of(edges.double()), [1.0, 1.0], last_layer=True)
        assert found.swaps is not None and found.swaps.n_graphs == 100
        assert found.swaps.beyond == expected
        # Plain modularity would call both modular.
        assert found.modularity > 0.3
        assert ("no modules beyond chance" in found.described) != expected


@pytest.mark.parametrize("resolution", [0.7, 1.0, 1.5])
def test_the_partition_does_not_depend_on_the_seed(resolution):
    generator = torch.Generator().manual_seed(3)
    block = torch.arange(15) // 5
    density = torch.where(block[:, None] == block, 0.7, 0.1)
    edges = (torch.rand(15, 15, generator=generator) < density).double() * 50
    graph = graph_of(edges)
    one, *others = (
        find_modules(
            graph, [1.0, 1.0], last_layer=True, seed=seed, resolution=resolution, n_swapped=0
        )
        for seed in range(6)
    )
    assert one.n_starts >= 100 and one.swaps is None
    for other in others:
        assert [m.members for m in other.modules] == [m.members for m in one.modules]


def test_stability_is_1_where_all_searches_agree():
    edges = torch.block_diag(*[torch.full((3, 3), 9.0)] * 2).double()
    found = find_modules(graph_of(edges), [1.0, 1.0], last_layer=True)
    assert [m.stability for m in found.modules] == [1.0, 1.0]
    assert found.share_at_best == 1


def test_modules_have_to_be_beyond_all_that_they_are_compared_with():
    edges = torch.block_diag(*[torch.full((3, 3), 9.0)] * 2).double()
    found = find_modules(graph_of(edges), [1.0, 1.0], last_layer=True, n_swapped=0)
    assert found.described == "2 modules of 9, 9, Q = 0.500"
    high, low = chance(0.6, [0.1, 0.2, 0.3] * 34), chance(0.5, [0.4, 0.5, 0.6] * 34)
    trained = dataclasses.replace(found, swaps=high)
    assert trained.beyond
    assert trained.described.endswith("Q = 0.500, z = 4.9, p = 0.0097 against swapped edges")
    # The architecture alone gives as much.
    untrained = dataclasses.replace(found, swaps=high, randomised=low)
    assert not untrained.beyond
    assert untrained.described.endswith(
        "no modules beyond chance: z = 4.9, p = 0.0097 against swapped edges; "
        "z = 0.0, p = 0.67 against shuffled weights"
    )


def test_shuffled_networks_run_by_default_only_where_swaps_explain_nothing():
    edges = torch.block_diag(*[torch.full((3, 3), 9.0)] * 2).double()
    found = find_modules(graph_of(edges), [1.0, 1.0], last_layer=True, n_swapped=0)
    high, low = chance(0.6, [0.1, 0.2, 0.3] * 34), chance(0.5, [0.4, 0.5, 0.6] * 34)
    section = Affine(torch.eye(2), torch.zeros(2))
    chain, inputs = Chain(("a", "b"), (section,)), torch.eye(2)
    task = Task(
        chain,
        inputs,
        Scored(inputs, torch.arange(2), ACCURACY),
        weights=Weights({}, lambda some: chain),
    )

    def wanted(swaps, task, **how):
        modules = dataclasses.replace(found, swaps=swaps)
        return Shuffled(lambda: task, BasisConfig(), 5, **how).wanted(modules)

    assert wanted(high, task, if_beyond=True)
    assert not wanted(low, task, if_beyond=True)
    assert not wanted(high, dataclasses.replace(task, weights=None), if_beyond=True)
    # Who asks for it gets it, or is told that it cannot be.
    assert wanted(low, task)
    assert wanted(low, dataclasses.replace(task, weights=None))
