"""Models wrapped by nnsight and TransformerLens: what a user would type works, and edits show within traces."""

import importlib
from importlib.metadata import version

import pytest
import torch
from torch import nn

import subscape

SIZES = dict(n_subnetworks=3, rank=1, steps=5, batch_size=12, n_heldout_rows=12, progress=False)
FEW = dict(n_rows=24, n_references=1, n_top=2, n_others=4, n_deltas=2, n_partners=1)


class Wrapper:
    """What nnsight's wrapper looks like from outside: no module, but with all that its module has."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, name)


@pytest.fixture(autouse=True)
def quick(unchecked):
    pass


def network():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def check_wrapped(wrapped, module, folder):
    inputs = torch.rand(48, 6)
    found = subscape.decompose(wrapped, inputs, divergence="kl", **SIZES)
    assert found.layout.names == list(dict(module.named_parameters()))
    assert found.encode(wrapped, inputs).equal(found.encode(module, inputs))
    assert len(subscape.measure(found, wrapped, inputs, progress=False, **FEW)) == 3
    before = module(inputs)
    with found.edit(wrapped, {0: 2.0}):
        moved = module(inputs)
    assert (moved - before).abs().max() > 1e-3 and module(inputs).equal(before)
    copied = found.edited(wrapped, {0: 2.0})
    assert isinstance(copied, nn.Sequential)
    torch.testing.assert_close(copied(inputs), moved)
    found.save_lora(folder / "lora", wrapped, {0: 2.0}, tensors="*.weight")
    return found, inputs, moved


def test_a_wrapper_that_is_no_module(tmp_path):
    module = network()
    check_wrapped(Wrapper(module), module, tmp_path)
    with pytest.raises(ValueError, match=r"model: expected a torch\.nn\.Module; got int"):
        subscape.Target(3)
    with pytest.raises(ValueError, match=r"model: expected a torch\.nn\.Module; got Wrapper"):
        subscape.Target(Wrapper(3))


def test_nnsight(tmp_path):
    nnsight = pytest.importorskip("nnsight")
    module = network()
    wrapped = nnsight.NNsight(module)
    found, inputs, moved = check_wrapped(wrapped, module, tmp_path)
    with found.edit(wrapped, {0: 2.0}), wrapped.trace(inputs):
        traced = wrapped.output.save()
    torch.testing.assert_close(traced, moved)


def check_language_model(model, parameters):
    ids = torch.randint(0, 11, (24, 6))
    settings = dict(rows="token", divergence="kl", **SIZES)
    found = subscape.decompose(model, ids, parameters=parameters, **settings)
    assert len(subscape.measure(found, model, ids, progress=False, **FEW)) == 3
    before, cache = model.run_with_cache(ids)
    with found.edit(model, {0: 5.0}):
        moved, moved_cache = model.run_with_cache(ids)
    assert (moved - before).abs().max() > 1e-4 and model(ids).equal(before)
    first, last = "blocks.0.hook_resid_pre", "blocks.0.hook_mlp_out"
    assert moved_cache[first].equal(cache[first])
    assert not moved_cache[last].equal(cache[last])
    return found


def of_version_4():
    return int(version("transformer_lens").partition(".")[0]) >= 4


SHAPE = dict(n_layers=1, d_model=8, n_ctx=8, d_head=4, n_heads=2, d_mlp=16, d_vocab=11, seed=0)


@pytest.mark.filterwarnings("ignore:HookedTransformer:DeprecationWarning")
def test_hooked_transformer():
    lens = pytest.importorskip("transformer_lens")
    if of_version_4():
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    model = lens.HookedTransformer(lens.HookedTransformerConfig(act_fn="relu", **SHAPE)).eval()
    found = check_language_model(model, "blocks.0.mlp")
    assert {"blocks.0.mlp.W_in", "blocks.0.mlp.W_out"} <= {*found.layout.names}


def test_transformer_bridge():
    pytest.importorskip("transformer_lens")
    if not of_version_4():
        pytest.skip("makes a bridge as TransformerLens 4 does")
    bridge = importlib.import_module("transformer_lens.model_bridge.sources.native")
    found = check_language_model(bridge.boot(dict(act_fn="relu", **SHAPE)).eval(), "*.mlp.*")
    assert all("mlp" in name for name in found.layout.names)
