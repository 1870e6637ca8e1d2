import pytest
import torch

from subscape.interaction_basis import Affine, Chain
from subscape.interaction_basis.moments import moments_in_two_passes, node_moments


@pytest.mark.parametrize("name", ["tanh", "mod-add", "sequence"])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_streaming_moments_are_those_of_two_passes(example, name, batch_size):
    case = example(name)
    found = node_moments(case.chain, case.inputs, batch_size=batch_size)
    for moments, values in zip(found, case.chain.nodes(case.inputs), strict=True):
        wanted = moments_in_two_passes(values.split(4))
        assert moments.count == wanted.count
        assert torch.allclose(moments.mean, wanted.mean, atol=1e-12)
        assert torch.allclose(moments.covariance, wanted.covariance, atol=1e-12)


def test_a_large_mean_does_not_drown_the_covariance(example):
    case = example("tanh")
    far = node_moments(case.chain, case.inputs + 1e6, batch_size=7)[0]
    near = node_moments(case.chain, case.inputs, batch_size=7)[0]
    assert torch.allclose(far.covariance, near.covariance, atol=1e-8)


def test_moments_are_float64_even_of_float32_activations(example):
    case = example("linear")
    sections = tuple(Affine(s.weight.float(), s.bias.float()) for s in case.chain.sections)
    found = node_moments(Chain(case.chain.names, sections), case.inputs.float())
    assert all(m.covariance.dtype == torch.float64 for m in found)
