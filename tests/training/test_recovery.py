"""Planted subnetworks are found. The toys of the paper have tests of their own."""

import pytest
import torch

from subscape import GradientSource, Target, decompose
from subscape.lowrank import Stack, make_layout
from subscape.measures.recovery import recovery
from subscape.subnetworks import BatchTopK, Dictionary
from subscape.subnetworks.evaluation import evaluate
from subscape.toys import true_subnetworks

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize(
    ("form", "seed", "recipe"), [("tucker", 0, "whitened"), ("cp", 1, "published")]
)
def test_planted_subnetworks_are_found_to_the_last_digits(make_planted, form, seed, recipe):
    planted = make_planted(seed)
    options = planted.options | {"form": form, "recipe": recipe}
    result = decompose(planted.model, planted.data, steps=1200, n_restarts=2, **options)
    assert result.metrics["fvu"] < 1e-10
    assert result.metrics["l0"] == 2.0
    assert result.metrics["dead"] == 0.0
    metric = result.geometry.metric
    made_of = result.decoder if metric is None else metric.to_gradients(result.decoder)
    read_by = result.encoder if metric is None else metric.to_push(result.encoder)
    lengths = made_of.flat().norm(dim=1)
    cosines = (planted.subnetworks @ made_of.flat().mT / lengths).abs()
    assert (cosines.amax(1) > 1 - 1e-8).all()
    # One subnetwork for each of the nine.
    assert cosines.argmax(1).unique().numel() == 9
    # Inactive coefficients only have to stay below the cut, but active ones must be exact.
    own = cosines.argmax(1)
    signs = (planted.subnetworks * made_of.flat()[own]).sum(1).sign()
    active = (planted.subnetworks * read_by.flat()[own]).sum(1) * signs * lengths[own]
    torch.testing.assert_close(active, torch.ones(9).double(), rtol=0, atol=1e-4)
    # One row at a time, the stored threshold selects as well as the batch did.
    assert result.metrics["fvu_row_by_row"] < 0.02


@pytest.mark.parametrize(
    # One of two equal halves is left out, or three of nine subnetworks.
    ("few", "least"),
    [({"l0": 1.0}, 0.1), ({"n_subnetworks": 6}, 0.05)],
)
def test_too_few_leave_variance_unexplained(planted, few, least):
    result = decompose(planted.model, planted.data, steps=300, **planted.options | few)
    assert result.metrics["l0"] == few.get("l0", 2.0)
    assert result.metrics["fvu"] > least


def test_the_directions_themselves_are_no_encoder_for_oblique_subnetworks(planted):
    """What the first test finds is not what training starts from, an encoder equal to the decoder."""
    source = GradientSource(Target(planted.model), planted.data, reference="uniform")
    true = Stack(make_layout({"weight": (3, 3)}, (3, 3)), planted.subnetworks)
    made = Dictionary(true, true, BatchTopK(2.0, torch.Size([9]), true.weights))
    found = evaluate(source, made, n_rows=900, batch_size=64)
    assert float(found.fvu) > 0.02


def test_learned_thresholds_find_all_features_of_tms_at_the_l0_asked_for(trained_tms):
    inputs, fresh = (trained_tms.sample(n, torch.Generator().manual_seed(n)) for n in (4000, 1000))
    options = {"heldout": fresh, "n_subnetworks": 5, "rank": 1, "n_restarts": 2, "steps": 500}
    result = decompose(
        trained_tms.model, inputs, selection="jumprelu", l0=0.5, progress=False, **options
    )
    figures = result.metrics
    truth = true_subnetworks(trained_tms).directions
    assert recovery(result.decoder.flat(), truth).n_matched == 5
    assert figures["l0"] == pytest.approx(0.5, rel=0.1)
    # Rows never influenced each other.
    assert figures["l0_row_by_row"] == pytest.approx(figures["l0"], rel=1e-3)
    assert figures["fvu_row_by_row"] == pytest.approx(figures["fvu"], rel=1e-3)
    assert figures["fvu"] < 0.22
