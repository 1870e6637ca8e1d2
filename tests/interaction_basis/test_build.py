import dataclasses
import shutil

import pytest
import torch

from subscape.interaction_basis import BasisConfig, build, build_bases, build_graph


def test_an_interrupted_build_goes_on_where_it_was(example, tmp_path, monkeypatch):
    case = example("mod-add")
    whole = case.bases()
    made = []
    real = build.jacobian_gram

    def interrupted(*arguments, **options):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(build, "jacobian_gram", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_bases(case.chain, case.inputs, folder=tmp_path)
    assert sorted(p.name for p in (tmp_path / "layers").iterdir()) == [
        f"{layer:03}.safetensors" for layer in (1, 2, 3)
    ]
    made.clear()
    resumed = build_bases(case.chain, case.inputs, folder=tmp_path)
    assert len(made) == 1
    for method in ("lib", "pca"):
        for one, other in zip(whole.of(method), resumed.of(method), strict=True):
            assert torch.equal(one.into, other.into)
            assert torch.equal(one.importance, other.importance)


@pytest.mark.parametrize("name", ["mod-add", "tanh", "sequence"])
def test_whatever_was_there_already_the_bases_are_the_same_to_the_bit(example, tmp_path, name):
    case = example(name)
    whole = build_bases(case.chain, case.inputs, folder=tmp_path / "whole")
    layers = sorted((tmp_path / "whole" / "layers").iterdir())
    for n in range(1, len(layers)):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / f"{n}")
        for path in layers[:n]:
            (folder / "layers" / path.name).unlink()
        resumed = build_bases(case.chain, case.inputs, folder=folder)
        for method in ("lib", "pca"):
            for one, other in zip(whole.of(method), resumed.of(method), strict=True):
                for field in ("mean", "into", "back", "importance"):
                    assert torch.equal(getattr(one, field), getattr(other, field))


def test_a_folder_of_another_run_is_refused(example, tmp_path):
    case = example("tanh")
    # A folder without a layer takes other settings.
    with pytest.raises(ValueError, match="allow_low_rank"):
        build_bases(case.chain, case.inputs[:4], folder=tmp_path)
    for _ in range(2):
        build_bases(case.chain, case.inputs, folder=tmp_path)
    with pytest.raises(ValueError, match=r"differs in config\.last\."):
        build_bases(case.chain, case.inputs, BasisConfig(last="raw"), folder=tmp_path)
    with pytest.raises(ValueError, match="differs in inputs, gram_inputs"):
        build_bases(case.chain, case.inputs + 1e-12, folder=tmp_path)
    # The outputs of the second are as large.
    for readout in (lambda values: 2 * values, lambda values: values.flip(-1)):
        other = dataclasses.replace(case.chain, readout=readout)
        with pytest.raises(ValueError, match="differs in model"):
            build_bases(other, case.inputs, folder=tmp_path)


def test_edges_are_saved_by_layer_and_read_again(example, tmp_path, monkeypatch):
    case = example("tanh")
    bases = case.bases()
    first = build_graph(case.chain, bases, case.inputs, folder=tmp_path)

    def never(*arguments, **options):
        raise AssertionError("made again")

    monkeypatch.setattr("subscape.interaction_basis.graph.interactions", never)
    again = build_graph(case.chain, bases, case.inputs, folder=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first.edges, again.edges, strict=True))
    with pytest.raises(ValueError, match="the same bases and data"):
        build_graph(case.chain, bases, case.inputs[:30], folder=tmp_path)


def test_edges_along_another_path_are_not_mixed_with_those_saved(example, tmp_path):
    case = example("tanh")
    plain, path = (case.bases(path_points=points) for points in (0, 2))
    build_graph(case.chain, plain, case.inputs, method="pca", folder=tmp_path)
    # Principal directions do not depend on the path, their edges do.
    with pytest.raises(ValueError, match="the same bases and data"):
        build_graph(case.chain, path, case.inputs, method="pca", folder=tmp_path)


def test_any_type_of_inputs_is_known_again(example):
    inputs = example("tanh").inputs
    for dtype in (torch.bfloat16, torch.float32, torch.int64, torch.bool):
        some = (inputs * 4).to(dtype)
        assert build.digest(some) == build.digest(some.clone()) != build.digest(some[1:])


def test_more_data_for_the_covariances(example):
    case = example("tanh")
    bases = build_bases(case.chain, case.inputs[:10], gram_inputs=case.inputs)
    whole = case.bases()
    assert torch.equal(bases.pca[1].importance, whole.pca[1].importance)
    assert not torch.equal(bases.lib[1].importance, whole.lib[1].importance)
    with pytest.raises(ValueError, match="method: expected 'lib' or 'pca'"):
        bases.of("ica")


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_change_nothing(example, batch_size):
    case = example("sequence")
    whole = case.bases()
    pieces = case.bases(batch_size=batch_size)
    for one, other in zip(whole.lib, pieces.lib, strict=True):
        assert torch.allclose(one.importance, other.importance, rtol=1e-9)
