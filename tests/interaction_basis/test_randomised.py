import dataclasses

import pytest
import torch
from torch import nn

from subscape.interaction_basis import (
    BasisConfig,
    build_bases,
    build_graph,
    find_modules,
    model_task,
)
from subscape.interaction_basis.randomised import against_shuffled
from subscape.interaction_basis.weights import shuffled, with_weights


def network():
    return nn.Sequential(
        nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)
    ).double()


def test_shuffled_weights_are_the_same_numbers_elsewhere():
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tensors = shuffled(before, 0)
    other = with_weights(model, tensors)
    for name, p in other.named_parameters():
        assert torch.equal(p, tensors[name])
        assert torch.equal(p.flatten().sort().values, before[name].flatten().sort().values)
        assert not torch.equal(p, before[name])
        assert torch.equal(model.get_parameter(name), before[name])
    again, third = shuffled(before, 0), shuffled(before, 1)
    assert torch.equal(again["0.weight"], tensors["0.weight"])
    assert not torch.equal(third["0.weight"], tensors["0.weight"])


def test_modules_beside_those_of_shuffled_networks():
    task = model_task(network().eval(), ["input", "1", "3", "output"], torch.randn(120, 4).double())
    config = BasisConfig(last="raw")
    graph = build_graph(task.chain, build_bases(task.chain, task.inputs, config), task.inputs)
    limits = [float(e.flatten().topk(min(12, e.numel())).values[-1]) for e in graph.edges]
    found = find_modules(graph, limits, n_swapped=20)
    beside = against_shuffled(task, config, graph, limits, found, 3)
    assert beside.n_graphs == 3
    assert beside.modularity == found.swaps.modularity - found.swaps.mean
    assert abs(beside.mean) < 0.2 and beside.deviation > 0
    without = dataclasses.replace(task, weights=None)
    with pytest.raises(ValueError, match="n_networks: expected 0 for a task that cannot shuffle"):
        against_shuffled(without, config, graph, limits, found, 3)
    with pytest.raises(ValueError, match="at least 2"):
        against_shuffled(task, config, graph, limits, found, 1)
    alone = dataclasses.replace(found, swaps=None)
    with pytest.raises(
        ValueError, match="modules: expected modules that were compared with swapped"
    ):
        against_shuffled(task, config, graph, limits, alone, 3)


def test_networks_that_learned_nothing_are_no_more_than_their_shuffled_copies():
    torch.manual_seed(1)
    data = torch.randn(120, 4).double()
    task = model_task(network().eval(), ["input", "1", "3", "output"], data)
    config = BasisConfig(last="raw")
    graph = build_graph(task.chain, build_bases(task.chain, task.inputs, config), task.inputs)
    limits = [float(e.flatten().topk(min(12, e.numel())).values[-1]) for e in graph.edges]
    found = find_modules(graph, limits, n_swapped=20)
    assert not against_shuffled(task, config, graph, limits, found, 5).beyond
