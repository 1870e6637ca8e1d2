import dataclasses

import pytest
import torch

from subscape.interaction_basis import (
    ACCURACY,
    CROSS_ENTROPY,
    NEXT_TOKEN,
    Scored,
    ablation,
    edge_curve,
    largest_edges,
    node_curve,
)
from subscape.interaction_basis.ablation import LargestEdges, growing, score_with_directions
from subscape.interaction_basis.passing import through_edges, through_edges_by_loop
from subscape.interaction_basis.score import evaluate


def scored(case):
    outputs = case.chain.outputs(case.inputs)
    return Scored(case.inputs, outputs.argmax(-1), CROSS_ENTROPY, batch_size=17)


@pytest.mark.parametrize("name", ["tanh", "relu", "mod-add", "linear", "sequence"])
@pytest.mark.parametrize("last", ["raw", "pca"])
def test_runs_by_distinct_mask_rows_are_those_by_single_rows(example, name, last):
    case = example(name)
    graph = case.graph(last=last)
    for layer, section in enumerate(case.chain.sections):
        pair = graph.bases[layer : layer + 2]
        coordinates = pair[0].encode(case.chain.nodes(case.inputs)[layer])
        for k in (0, 1, 3, 7, 1000):
            mask = largest_edges(graph.edges[layer], k)
            slow = through_edges_by_loop(section, *pair, mask, coordinates)
            fast = through_edges(section, *pair, mask, coordinates)
            assert torch.allclose(fast, slow, atol=1e-9 * max(1.0, float(slow.abs().max())))


def test_the_largest_edges_with_their_ties():
    edges = torch.tensor([[3.0, 1.0], [2.0, 2.0]])
    assert largest_edges(edges, 0).sum() == 0
    assert largest_edges(edges, 1).tolist() == [[True, False], [False, False]]
    # The second largest is 2, twice: both stay.
    assert largest_edges(edges, 2).tolist() == [[True, False], [True, True]]
    assert largest_edges(edges, 9).all()


@pytest.mark.parametrize("name", ["tanh", "mod-add", "sequence"])
def test_all_directions_and_all_edges_leave_the_score_as_it_is(example, name):
    case = example(name)
    graph, on = case.graph(last="raw"), scored(case)
    base = on.base(case.chain)
    for layer in range(len(case.chain)):
        pair = graph.bases[layer : layer + 2]
        kept = LargestEdges(case.chain, layer, graph.bases, graph.edges[layer], on)
        width = pair[0].width
        assert score_with_directions(case.chain, layer, pair[0], width, on) == pytest.approx(base)
        # Directions that LIB dropped have no effect, so the projection changes nothing here.
        assert kept.score(graph.edges[layer].numel()) == pytest.approx(base)


@pytest.mark.parametrize("name", ["relu", "mod-add", "sequence"])
@pytest.mark.parametrize("room", [2**26, 0])
def test_scores_do_not_depend_on_the_masks_before(example, name, room, monkeypatch):
    monkeypatch.setattr(ablation, "REMEMBERED", room)
    case = example(name)
    graph, on = case.graph(last="raw"), scored(case)
    for layer, section in enumerate(case.chain.sections):
        pair, edges = graph.bases[layer : layer + 2], graph.edges[layer]
        kept = LargestEdges(case.chain, layer, graph.bases, edges, on)
        for k in (9, 3, 10, 0, 4, 9):
            mask = largest_edges(edges, k)

            def run(inputs, layer=layer, section=section, pair=pair, mask=mask):
                coordinates = pair[0].encode(case.chain.nodes(inputs, layer)[-1])
                passed = through_edges_by_loop(section, *pair, mask, coordinates)
                return case.chain.tail(layer + 1, pair[1].decode(passed))

            assert kept.score(k) == pytest.approx(on.of(run), rel=1e-9)
            assert kept.if_within(k, kept.score(k), 0.0) == kept.score(k)
            assert kept.if_within(k, kept.score(k) - 1, 0.5) is None


def test_a_mask_runs_only_for_the_rows_that_are_new(example):
    case = example("tanh")
    graph, on = case.graph(last="raw"), dataclasses.replace(scored(case), batch_size=60)
    rows = []

    def section(values):
        rows.append(len(values) // 60)
        return case.chain.sections[1](values)

    chain = dataclasses.replace(
        case.chain, sections=(case.chain.sections[0], section, case.chain.sections[2])
    )
    edges = graph.edges[1]
    kept = LargestEdges(chain, 1, graph.bases, edges, on)
    kept.score(4)
    before = rows.copy()
    kept.score(5)
    assert rows == [*before, 1]
    kept.score(4)
    assert rows == [*before, 1]


def test_no_direction_left_is_the_output_at_the_mean(example):
    case = example("tanh")
    on = scored(case)
    basis = case.bases().lib[1]
    mean = case.chain.tail(1, basis.mean[None]).expand(len(case.inputs), -1)
    wanted = CROSS_ENTROPY.items(mean, on.labels).mean()
    assert score_with_directions(case.chain, 1, basis, 0, on) == pytest.approx(float(wanted))
    with pytest.raises(ValueError, match="n_kept: expected 0 to 5"):
        score_with_directions(case.chain, 1, basis, 6, on)


def test_curves(example):
    case = example("tanh")
    graph, on = case.graph(last="raw"), scored(case)
    nodes = node_curve(case.chain, 1, graph.bases[1], on)
    assert [n for n, _ in nodes] == list(range(graph.bases[1].rank + 1))
    edges = edge_curve(case.chain, 1, graph.bases, graph.edges[1], on)
    assert [n for n, _ in edges][:4] == [0, 1, 2, 4]
    assert edges[-1] == (graph.edges[1].numel(), pytest.approx(on.base(case.chain)))
    # Both ends of both curves are the same two networks.
    assert edges[0][1] == pytest.approx(nodes[0][1])
    assert growing(30) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 18, 22, 27, 30]
    assert growing(4) == [0, 1, 2, 3, 4]


def test_curves_go_straight_to_their_end_where_they_are_flat(example):
    case = example("tanh")
    graph, on = case.graph(last="raw"), scored(case)
    basis = graph.bases[0]
    whole = dict(node_curve(case.chain, 0, basis, on))
    short = node_curve(case.chain, 0, basis, on, flat=lambda score: score < whole[2])
    after = [n for n in whole if n > 0 and whole[n] < whole[2] and whole.get(n - 1, 9) < whole[2]]
    # Two points in a row that are flat, then only the last; what is measured is the same.
    assert [n for n, _ in short] == [*range(after[0] + 1), basis.rank]
    assert all(whole[n] == score for n, score in short)
    edges = edge_curve(case.chain, 0, graph.bases, graph.edges[0], on, flat=lambda score: True)
    assert [n for n, _ in edges] == [0, 1, graph.edges[0].numel()]


def test_a_network_without_a_finite_score_is_refused(example):
    case = example("tanh")
    on = Scored(case.inputs * torch.nan, torch.zeros(60, dtype=torch.long), CROSS_ENTROPY)
    with pytest.raises(ValueError, match="inputs: expected a finite cross-entropy .* got nan"):
        on.base(case.chain)


def test_scores_by_hand():
    outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    # Two of three right; a last batch of one counts as one, not as half.
    run, rows = outputs.__getitem__, torch.arange(3)
    assert evaluate(run, rows, labels, ACCURACY, batch_size=2) == pytest.approx(2 / 3)
    loss = torch.nn.functional.cross_entropy(outputs, labels).item()
    assert evaluate(run, rows, labels, CROSS_ENTROPY, batch_size=2) == pytest.approx(loss)
    tokens = torch.tensor([[0, 1, 1]])
    # Outputs at positions 0 and 1 foretell tokens 1 and 1.
    wanted = torch.nn.functional.cross_entropy(outputs[:2], torch.tensor([1, 1])).item()
    found = evaluate(lambda t: outputs[None], tokens, tokens, NEXT_TOKEN)
    assert found == pytest.approx(wanted)
    with pytest.raises(ValueError, match="labels: expected one for each of 3"):
        evaluate(run, rows, labels[:2], ACCURACY)
