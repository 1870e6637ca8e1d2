import itertools

import pytest
import torch

from subscape.interaction_basis.louvain import modularity, searches


def two_triangles(bridge=1.0):
    weights = torch.zeros(6, 6).double()
    for a, b in ((0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)):
        weights[a, b] = 1
    weights[2, 3] = bridge
    return weights + weights.mT


def partitions(n):
    """All partitions of n nodes, as labels."""
    for labels in itertools.product(range(n), repeat=n):
        if all(label <= max(labels[:k], default=-1) + 1 for k, label in enumerate(labels)):
            yield labels


def test_modularity_by_hand():
    # 6 of 7 edges inside; both triangles hold 7 of 14 ends: 6/7 - 2 (1/2)^2.
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert float(modularity(two_triangles(), labels, 1.0)) == pytest.approx(6 / 7 - 1 / 2)
    assert float(modularity(two_triangles(), labels, 2.0)) == pytest.approx(6 / 7 - 1)
    whole = torch.zeros(6, dtype=torch.long)
    assert float(modularity(two_triangles(), whole, 1.0)) == pytest.approx(0)


@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.0])
def test_the_best_search_is_the_best_of_all_partitions(resolution):
    generator = torch.Generator().manual_seed(0)
    graphs = torch.rand(5, 7, 7, generator=generator).double()
    graphs = (graphs * (torch.rand(5, 7, 7, generator=generator) < 0.5)).triu(1)
    graphs = graphs + graphs.mT
    every = torch.tensor(list(partitions(7)))
    labels, scores = searches(graphs, 50, resolution, seed=1)
    for graph, found, score in zip(graphs, labels, scores, strict=True):
        best = modularity(graph.expand(len(every), 7, 7), every, resolution).max()
        assert float(score.max()) == pytest.approx(float(best))
        own = modularity(graph.expand(50, 7, 7), found, resolution)
        assert torch.allclose(own, score)


def test_two_triangles_are_two_communities_from_every_start():
    labels, _ = searches(two_triangles()[None], 20, 1.0, seed=0)
    for found in labels[0].tolist():
        assert len(set(found[:3])) == len(set(found[3:])) == 1
        assert found[0] != found[3]
