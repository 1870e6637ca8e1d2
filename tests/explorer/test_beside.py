"""Two runs: which subnetworks are in both."""

from dataclasses import replace

import pytest
import torch

from subscape.explorer.beside import Beside, beside
from subscape.lowrank import Stack
from subscape.scorecard.compare import cosines
from subscape.subnetworks.dictionary import Dictionary


def test_cosines_are_those_of_the_dense_directions(words):
    stack = words.decomposition.directions
    dense = torch.stack([
        torch.cat([v.flatten() for v in subnetwork.dense().values()])
        for subnetwork in words.decomposition
    ])
    expected = torch.nn.functional.normalize(dense, dim=1)
    assert torch.allclose(cosines(stack, stack), expected @ expected.T, atol=1e-5)


def reordered(decomposition, order):
    sides = [
        Stack(side.layout, side.weights[order].clone())
        for side in (decomposition.encoder, decomposition.decoder)
    ]
    dictionary = Dictionary(*sides, decomposition.dictionary.selection).requires_grad_(False)
    return replace(decomposition, dictionary=dictionary)


def test_the_same_run_in_another_order_is_found_again(words):
    order = [2, 0, 3, 1]
    other = Beside("other", reordered(words.decomposition, order), words.measures)
    found = beside(words.decomposition, words.measures, other)
    assert [(k, j, mutual) for k, j, _, mutual in found["pairs"]] == [
        (k, order.index(k), True) for k in range(4)
    ]
    assert [c for _, _, c, _ in found["pairs"]] == pytest.approx([1.0] * 4, abs=1e-4)
    assert 0 < found["chance"] < 0.9
    assert len(found["cards"][0]["contexts"]) == 3
    before, at, after = found["cards"][0]["contexts"][0]
    row = words.measures[0].top_samples[0]
    ids = words.data["input_ids"][row.sample].tolist()
    assert at == words.measures.names.token(ids[row.position])
    assert before.endswith(words.measures.names.token(ids[row.position - 1])) or not row.position


def test_pictures_come_with_thumbnails(pictures):
    other = Beside("other", pictures.decomposition, pictures.measures)
    card = beside(pictures.decomposition, pictures.measures, other)["cards"][0]
    assert card["images"][0].startswith("data:image/png")
    assert card["contexts"] == []


def test_runs_of_other_parameters_are_refused(words, pictures):
    other = Beside("other", pictures.decomposition, pictures.measures)
    with pytest.raises(ValueError, match="beside: expected a run over the same tensors"):
        beside(words.decomposition, words.measures, other)
