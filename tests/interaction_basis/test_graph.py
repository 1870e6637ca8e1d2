import json

import pytest
import torch

from subscape.interaction_basis import InteractionGraph


@pytest.fixture
def graph(example):
    return example("tanh").graph(last="raw")


def test_saving_and_loading_is_the_identity(graph, tmp_path):
    graph.save(tmp_path / "g")
    loaded = InteractionGraph.load(tmp_path / "g")
    assert loaded.names == graph.names
    for one, other in zip(loaded.edges, graph.edges, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(loaded.bases, graph.bases, strict=True):
        assert (one.name, one.kind, one.n_isolated) == (other.name, other.kind, other.n_isolated)
        for field in ("mean", "into", "back", "importance"):
            assert torch.equal(getattr(one, field), getattr(other, field))
    with pytest.raises(FileExistsError):
        graph.save(tmp_path / "g")
    graph.save(tmp_path / "g", overwrite=True)
    path = tmp_path / "g" / "graph.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(ValueError, match="version 1; got version 99"):
        InteractionGraph.load(tmp_path / "g")


def test_a_graph_moves_to_a_device_whole(graph):
    moved = graph.to(torch.device("meta"))
    assert moved.names == graph.names
    tensors = [t for b in moved.bases for t in (b.mean, b.into, b.back, b.importance)]
    assert {t.device.type for t in (*tensors, *moved.edges)} == {"meta"}


def test_export_to_networkx(graph):
    pytest.importorskip("networkx")
    exported = graph.to_networkx()
    assert exported.number_of_nodes() == sum(b.rank for b in graph.bases)
    assert exported.number_of_edges() == sum(int((e > 0).sum()) for e in graph.edges)
    to, come_from = divmod(int(graph.edges[1].argmax()), graph.edges[1].shape[1])
    edge = exported.edges[(1, come_from), (2, to)]
    assert edge["weight"] == float(graph.edges[1].max())
    assert exported.nodes[(1, 0)]["layer_name"] == graph.names[1]
    limits = [float(e.median()) for e in graph.edges]
    assert graph.to_networkx(limits).number_of_edges() < exported.number_of_edges()
    with pytest.raises(ValueError, match="smallest"):
        graph.to_networkx([0.0])


def test_edges_must_fit_the_bases(graph):
    with pytest.raises(ValueError, match="edges: expected one matrix for each of 3 sections"):
        InteractionGraph(graph.bases, graph.edges[:1])
    with pytest.raises(ValueError, match=r"edges\[0\]"):
        InteractionGraph(graph.bases, (graph.edges[0][:1], *graph.edges[1:]))
