import dataclasses

import pytest
import torch

from subscape.interaction_basis import (
    ACCURACY,
    Affine,
    Chain,
    InteractionGraph,
    Score,
    Scored,
    all_edges_required,
    edges_required,
    find_modules,
    largest_edges,
)
from subscape.interaction_basis.basis import raw_basis
from subscape.interaction_basis.passing import through_edges_by_loop
from subscape.interaction_basis.required import bisect, bracket


@pytest.mark.parametrize("midpoint", ["linear", "log"])
@pytest.mark.parametrize("total", [1, 2, 3, 10, 16641])
def test_bisection_finds_the_smallest_good_number(midpoint, total):
    for wanted in {1, min(2, total), total // 2 + 1, total}:
        tried = []

        def good(k, wanted=wanted, tried=tried):
            tried.append(k)
            return k >= wanted

        assert bisect(good, total, midpoint) == wanted
        assert len(tried) <= 2 * total.bit_length()
        assert all(0 < k < total for k in tried)


def published(good, total):
    """The published loop over the number taken away."""
    low, high = 0, total
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(total - middle) else (low, middle)
    return total - low


def test_bisection_takes_the_published_way_where_scores_are_not_monotone():
    for total in (5, 16, 37, 129 * 114):
        for _ in range(20):
            good = (torch.rand(total + 1) < 0.6).tolist().__getitem__
            assert bisect(good, total) == published(good, total)


def setting(example):
    case = example("relu")
    labels = case.chain.outputs(case.inputs).argmax(-1)
    return case.chain, case.graph(last="raw"), Scored(case.inputs, labels, ACCURACY)


def test_the_count_is_a_crossing_of_the_tolerance(example):
    chain, graph, on = setting(example)
    for layer, found in enumerate(all_edges_required(chain, graph, on, 0.05)):
        pair = graph.bases[layer : layer + 2]
        edges = graph.edges[layer]

        def score(k, layer=layer, pair=pair, edges=edges):
            def run(inputs):
                values = pair[0].encode(chain.nodes(inputs, layer)[-1])
                mask = largest_edges(edges, k)
                passed = through_edges_by_loop(chain.sections[layer], *pair, mask, values)
                return chain.tail(layer + 1, pair[1].decode(passed))

            return on.of(run)

        assert found.base == 1
        assert score(found.n_edges) == found.score >= 0.95
        assert found.n_edges == 1 or score(found.n_edges - 1) < 0.95
        assert int((edges >= found.threshold).sum()) == found.n_edges
        assert (found.n_edges, found.score) in found.tried
        # Widths 6, 5, 4, 3, the constant counted at rotated layers: 7 x 6, 6 x 5, 5 x 3.
        assert found.n_total == (42, 30, 15)[layer]


def test_a_tolerance_that_no_edges_satisfy_is_refused(example):
    chain, graph, on = setting(example)
    # Scores the distance from an output that only the whole network has.
    far = Score("error", lambda outputs, wanted: (outputs - wanted).square().flatten(), False)
    exact = Scored(on.inputs, chain.outputs(on.inputs), far)
    with pytest.raises(ValueError, match=r"tolerance: expected one that all edges of .*error is 0"):
        edges_required(chain, with_two_directions(graph), 1, exact, 1e-6)
    with pytest.raises(ValueError, match="tolerance: expected a number of at least 0"):
        edges_required(chain, graph, 1, on, -1.0)


def test_the_threshold_is_above_0_where_edges_of_0_are_needed():
    # Two units that never meet: half of the edges are 0, and all are wanted.
    section = Affine(torch.eye(2).double(), torch.zeros(2).double())
    inputs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    pair = raw_basis("x", 2), raw_basis("y", 2)
    graph = InteractionGraph(pair, (torch.eye(2).double(),))
    chain = Chain(("x", "y"), (section,))
    seen = []

    def all_or_none(outputs, wanted):
        seen.append(1)
        # The first score is the base, the second that of all edges; then nothing is enough.
        return torch.full((len(outputs),), 0.0 if len(seen) <= 2 else 1.0)

    on = Scored(inputs, inputs, Score("error", all_or_none, False))
    found = edges_required(chain, graph, 0, on, 0.1)
    assert found.n_edges == 4
    assert found.threshold == 1.0
    assert find_modules(graph, [found.threshold], last_layer=True).modules == ()


def with_two_directions(graph):
    bases = [
        dataclasses.replace(b, into=b.into[:, :2], back=b.back[:2], importance=b.importance[:2])
        for b in graph.bases[:-1]
    ]
    edges = [e[:2, :2] for e in graph.edges[:-1]] + [graph.edges[-1][:, :2]]
    return type(graph)((*bases, graph.bases[-1]), tuple(edges))


@pytest.mark.parametrize("midpoint", ["linear", "log"])
@pytest.mark.parametrize("total", [1, 2, 3, 10, 16641])
def test_from_few_edges_upwards_the_bisection_ends_at_the_same_number(midpoint, total):
    for wanted in {1, min(2, total), total // 3 + 1, total}:
        tried = []

        def good(k, wanted=wanted, tried=tried):
            tried.append(k)
            return k >= wanted

        low, high = bracket(good, total, midpoint)
        assert low < wanted <= high
        assert bisect(good, high, midpoint, low=low) == wanted
        # No number far above the one wanted is tried.
        assert max(tried, default=0) <= max(5 * wanted + 4, wanted**2)


def test_one_lucky_score_does_not_end_the_search():
    good = {2, 33, *range(66, 1000)}.__contains__
    low, high = bracket(good, 1000)
    assert (low, high) == (63, 125)
    assert bisect(good, high, low=low) == 66


def test_a_score_that_cannot_be_reached_any_more_is_broken_off(example):
    chain, _, on = setting(example)
    on = dataclasses.replace(on, batch_size=10)
    calls = []

    def run(inputs, wrong):
        calls.append(1)
        outputs = chain.outputs(inputs)
        return outputs.flip(-1) if wrong else outputs

    assert on.if_within(lambda x: run(x, wrong=False), 1.0, 0.05) == 1.0
    assert len(calls) == 6
    calls.clear()
    assert on.if_within(lambda x: run(x, wrong=True), 1.0, 0.05) is None
    # Of 60 items 3 may be wrong; the first ten hold more.
    assert len(calls) == 1


def test_no_edge_may_be_required():
    # The labels are those at the mean: no direction has to be seen.
    section = Affine(torch.eye(2).double(), torch.tensor([9.0, 0.0]).double())
    inputs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    graph = InteractionGraph((raw_basis("x", 2), raw_basis("y", 2)), (torch.eye(2).double(),))
    on = Scored(inputs, torch.zeros(4, dtype=torch.long), ACCURACY)
    found = edges_required(Chain(("x", "y"), (section,)), graph, 0, on, 0.0)
    assert found.n_edges == 0
    assert not (graph.edges[0] >= found.threshold).any()
