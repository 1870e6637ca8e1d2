"""The published results on the published checkpoints; needs real data."""

import dataclasses

import pytest
import torch

from subscape.interaction_basis import (
    ACCURACY,
    BasisConfig,
    Scored,
    all_edges_required,
    build_bases,
    build_graph,
)
from subscape.interaction_basis.ablation import LargestEdges
from subscape.reproduce.modular_addition import (
    fourier_labels,
    load_modular_addition,
    modular_addition_chain,
    modular_addition_data,
    modular_addition_pairs,
    pair_tables,
)

ACCURACIES = {0: 0.99955, 1: 0.99888, 3: 0.99978}
LEADING = {
    0: ((18097, 4083, 3036.2), (16416, 5035.4, 4638.5), (9286.8, 5306.1, 1891.8)),
    1: ((92701, 25033, 5031), (115690, 18780, 14026), (74461, 14422, 9730.4)),
    3: ((122570, 21346, 20921), (72244, 44817, 20758), (90152, 17879, 15957)),
}
ABOVE_ONE = {0: (16, 16, 12), 1: (13, 14, 16), 3: (12, 12, 14)}
SUMS_0, SUMS_1 = (22337.2, 57357.8, 21737.9), (74973.9, 190269, 121434)
EDGE_SUMS = {0: SUMS_0, 1: SUMS_1, 3: (118430, 181862, 141245)}
REQUIRED = {
    "lib": {0: (133, 82, 633), 1: (80, 75, 699), 3: (58, 60, 535)},
    "pca": {0: (167, 114, 682), 1: (76, 53, 734), 3: (115, 71, 547)},
}
INPUTS = modular_addition_data(modulus=5, train_fraction=0.9).train_inputs


@pytest.fixture
def chain(mod_add_weights):
    return modular_addition_chain(mod_add_weights(torch.Generator().manual_seed(3)))


def test_attention_at_the_last_position_is_torchs(chain):
    values = chain.nodes(INPUTS)[0]
    section = chain.sections[0]
    query, key, value = (
        torch.einsum("spn,hnd->shpd", values, getattr(section, name))
        + getattr(section, f"{name}_bias")[:, None]
        for name in ("query", "key", "value")
    )
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    out = values + torch.einsum("shpd,hdn->spn", mixed, section.out) + section.out_bias
    assert torch.allclose(section(values), out[:, -1:], atol=1e-12)
    with pytest.raises(ValueError, match="weights: expected a one-layer transformer"):
        modular_addition_chain({})


def test_fourier_labels_name_every_direction(chain):
    bases = build_bases(chain, INPUTS, BasisConfig(last="raw"))
    graph = build_graph(chain, bases, INPUTS)
    labels = fourier_labels(chain, graph, modulus=5, most=3)
    assert {layer for layer, _ in labels} == {0, 1, 2}
    assert all("cos(" in text for text in labels.values())
    pairs = modular_addition_pairs(5)
    assert pairs.shape == (25, 3)
    # Positions are added up; row a, column b.
    table = pair_tables(chain, graph, modulus=5, most=3)[0, 1]
    values = graph.bases[0].encode(chain.nodes(pairs, 0)[0])[..., 1].sum(1)
    assert table[2, 3] == values[(pairs[:, 0] == 2) & (pairs[:, 1] == 3)]


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_accuracy_and_mlp_and_unembedding_alone(data_dir, seed):
    """The two sections in closed form, which take no time."""
    path = data_dir / f"rib_modadd/seed{seed}.safetensors"
    data = modular_addition_data()
    assert (len(data.train_inputs), len(data.test_inputs)) == (3830, 8939)
    on = Scored(data.test_inputs, data.test_labels, ACCURACY, batch_size=2048)
    whole, single = (load_modular_addition(path, t) for t in (torch.float64, torch.float32))
    assert on.base(whole) == pytest.approx(ACCURACIES[seed], abs=5e-6)
    chain, single = _without_attention(whole), _without_attention(single)
    bases = build_bases(chain, data.train_inputs, BasisConfig(last="raw", batch_size=512))
    graph = build_graph(chain, bases, data.train_inputs)
    for layer in (0, 1):
        importance = bases.lib[layer].importance
        assert importance[:3].tolist() == pytest.approx(LEADING[seed][layer + 1], rel=1e-4)
        assert int((importance > 1).sum()) == ABOVE_ONE[seed][layer + 1]
        total = float(graph.edges[layer].sum())
        assert total == pytest.approx(EDGE_SUMS[seed][layer + 1], rel=1e-4)
    if seed == 3:
        # With the published numbers of edges the accuracy is near enough, with one edge less it is not.
        for layer, n in enumerate(REQUIRED["lib"][seed][1:]):
            kept = LargestEdges(single, layer, graph.bases, graph.edges[layer], on)
            assert kept.score(n) >= on.base(single) - 0.001 > kept.score(n - 1)


def _without_attention(chain):
    first = chain.sections[0]
    return dataclasses.replace(
        chain,
        names=chain.names[1:],
        sections=chain.sections[1:],
        embed=lambda tokens: first(chain.embed(tokens)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_bases_edges_and_edges_required(data_dir, seed):
    path = data_dir / f"rib_modadd/seed{seed}.safetensors"
    data = modular_addition_data()
    chain = load_modular_addition(path)
    bases = build_bases(chain, data.train_inputs, BasisConfig(last="raw"))
    # Off-manifold sensitivity to the small directions of ln2.0 reaches ln1.0: 3e-5 to 3e-3 as specified.
    for layer, rel in enumerate((1e-3, 1e-4, 1e-4)):
        importance = bases.lib[layer].importance
        assert importance[:3].tolist() == pytest.approx(LEADING[seed][layer], rel=rel)
        assert int((importance > 1).sum()) == ABOVE_ONE[seed][layer]
    single = load_modular_addition(path, torch.float32)
    on = Scored(data.test_inputs, data.test_labels, ACCURACY, batch_size=512)
    for method in ("lib", "pca"):
        graph = build_graph(chain, bases, data.train_inputs, method=method)
        if method == "lib":
            sums = [float(e.sum()) for e in graph.edges]
            assert sums == pytest.approx(EDGE_SUMS[seed], rel=1e-3)
        found = [f.n_edges for f in all_edges_required(single, graph, on, 0.001)]
        if method == "lib":
            assert found == list(REQUIRED[method][seed])
        for n, wanted in zip(found, REQUIRED[method][seed], strict=True):
            assert abs(n - wanted) <= max(3, 0.03 * wanted)
