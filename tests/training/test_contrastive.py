import pytest
import torch
from torch import nn

from subscape import GradientSource, Target, decompose, decompose_blocks
from subscape.training.contrastive import paired


@pytest.fixture
def target():
    torch.manual_seed(0)
    return Target(nn.Linear(3, 2).double())


def test_every_sample_has_its_partners_output(target):
    a, b = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    samples, pairs = paired(target, a, b)
    assert isinstance(samples, torch.Tensor)
    assert torch.equal(samples, torch.cat([a, b]))
    with torch.no_grad():
        torch.testing.assert_close(pairs.outputs, target.called(torch.cat([b, a])))
    source = GradientSource(target, samples, divergence="mse", reference=pairs)
    gradients = source.gradients(source.rows_of(torch.arange(10))).dense()
    # Of the bias ∂/∂b mean (f(a) − f(b))² is f(a) − f(b) for two outputs.
    with torch.no_grad():
        expected = target.called(a) - target.called(b)
    torch.testing.assert_close(gradients["bias"], torch.cat([expected, -expected]))


def test_subnetworks_are_of_what_differs_within_pairs(target):
    # All pairs differ in the first input alone: all gradients point to what it does to the outputs.
    a = torch.randn(40, 3).double()
    samples, pairs = paired(target, a, a + torch.tensor([1.0, 0, 0]))
    options = {"steps": 300, "progress": False, "recipe": "published", "batch_size": 16}
    sizes = {"n_subnetworks": 2, "rank": 1, "l0": 2.0, "n_heldout_rows": 8}
    found = decompose(target, samples, reference=pairs, **sizes, **options)
    first = nn.functional.normalize(target.parameters["weight"].detach()[:, 0], dim=0)
    biases = torch.stack([subnetwork["bias"] for subnetwork in found])
    cosines = nn.functional.normalize(biases, dim=1) @ first
    assert (cosines.abs() > 0.99).all()
    # Rows of other data have no partner: they are compared with the mean output of these.
    assert found.reference is None
    codes = found.encode(target, torch.randn(6, 3).double())
    assert codes.shape == (6, 2)


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (torch.zeros(4, 3), "^contrast: expected a partner for each of the 5 samples; got 4"),
        (torch.zeros(5, 2), "^contrast: expected partners of the samples' own form"),
        (torch.ones(5, 3), "^contrast: expected partners that differ; got 5 of 5 that are equal"),
    ],
)
def test_what_is_no_pair_is_refused(target, b, message):
    with pytest.raises(ValueError, match=message):
        paired(target, torch.ones(5, 3).double(), b.double())


ORDINARY = {"metric": "kronecker", "rows": "sample", "divergence": "mse"}
SHORT = {"n_subnetworks": 2, "rank": 1, "steps": 2, "batch_size": 16, "progress": False}


@pytest.mark.parametrize("row_weight", ["unit", "output", "norm"])
def test_the_metric_is_the_backgrounds_and_lengths_are_the_pairs(target, row_weight):
    a, text = torch.randn(40, 3).double(), 3 * torch.randn(60, 3).double()
    samples, pairs = paired(target, a, a + torch.tensor([1.0, 0, 0]))
    options = SHORT | {"row_weight": row_weight, "recipe": "whitened"}
    found = decompose(target, samples, reference=pairs, background=text, **options)
    plain = "output" if row_weight == "output" else "norm"
    alone = GradientSource(target, text, reference="mean", row_weight=plain, **ORDINARY)
    metric = found.geometry.metric
    for name, tensor in alone.geometry.metric.tensors.items():
        for mine, theirs in zip(metric.tensors[name].modes, tensor.modes, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0)
    own = decompose(target, samples, reference=pairs, **options).geometry
    assert not torch.allclose(
        metric.tensors["weight"].modes[1], own.metric.tensors["weight"].modes[1]
    )
    # Rows of unit length are so beside their own typical length, whatever the background's is.
    source = found.source(target, samples, reference=pairs)
    norms = source.gradients(source.rows_of(torch.arange(len(samples)))).squared_norm()
    if row_weight == "unit":
        torch.testing.assert_close(norms.sqrt(), torch.full_like(norms, found.geometry.typical_row))


def test_a_background_of_many_blocks_and_of_other_references(target):
    text = torch.randn(60, 3).double()
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    one = decompose(net, text[:20], parameters="1.*", background=text, **SHORT)
    many = decompose_blocks(net, text[:20], blocks="*", background=text, **SHORT)
    for name, tensor in one.geometry.metric.tensors.items():
        other = many["1"].geometry.metric.tensors[name]
        for mine, theirs in zip(tensor.modes, other.modes, strict=True):
            torch.testing.assert_close(mine, theirs)
    assert one.settings["background"] == many["1"].settings["background"] == "60 samples"


def test_a_background_without_a_metric_is_refused(target):
    options = SHORT | {"recipe": "published", "background": torch.randn(9, 3).double()}
    with pytest.raises(ValueError, match="^background: expected a metric to estimate from it"):
        decompose(target, torch.randn(20, 3).double(), **options)
