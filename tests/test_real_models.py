"""Pretrained models that nobody on this project made; skipped where SUBSCAPE_DATA is not set."""

import pytest
import torch
from torch import nn

from subscape import Decomposition, GradientSource, Target, decompose, text_windows

transformers = pytest.importorskip("transformers")

ATTENTION = [
    f"model.layers.2.self_attn.{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "o_proj")
]


@pytest.fixture(scope="module")
def stories(data_dir):
    folder = data_dir / "stories260k"
    return transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


@pytest.fixture(scope="module")
def windows(data_dir):
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        data_dir / "stories260k", local_files_only=True
    )
    return text_windows(data_dir / "tinystories" / "heldout_sample.txt", tokenizer, length=16)


def test_windows_hold_real_text(stories, windows):
    ids = windows["input_ids"]
    assert ids.shape[1] == 16
    assert len(ids) > 1000
    with torch.no_grad():
        logits = stories(ids[:200, :-1]).logits
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:200, 1:].flatten())
    # 1.48 nats with all of a story before it; short windows see less. Uniform would be ln 512 = 6.2.
    assert loss < 2.6


@pytest.mark.parametrize("reference", ["another-row", "batch-mean"])
def test_vmap_equals_the_loop_on_attention(stories, windows, reference):
    target = Target(stories, "model.layers.2.self_attn")
    assert target.names == ATTENTION
    options = {"divergence": "kl", "reference": reference, "rows": "sampled-token"}
    source, loop = (
        GradientSource(target, windows, engine=engine, **options) for engine in ("vmap", "loop")
    )
    some = source.rows(0, 6)
    fast, slow = source.gradients(some).dense(), loop.gradients(some).dense()
    for name in ATTENTION:
        error = (fast[name] - slow[name]).flatten(1).norm(dim=1)
        size = slow[name].flatten(1).norm(dim=1)
        # At position 0 there is only one token to attend to: query and key weights have no slope.
        own = size > 1e-6 * size.max()
        assert int(own.sum()) >= 4, name
        assert (error[own] / size[own]).max() < 1e-4, name
        assert (error[~own] < 1e-6 * size.max()).all(), name


def test_attention_is_decomposed(stories, windows, tmp_path):
    before = {name: p.detach().clone() for name, p in stories.named_parameters()}
    options = {"divergence": "kl", "rows": "sampled-token", "n_heldout_rows": 64, "steps": 20}
    options |= {"n_subnetworks": 20, "rank": 0.1, "l0": 2.0, "batch_size": 32, "progress": False}
    options |= {"recipe": "published"}
    result = decompose(stories, windows, parameters=ATTENTION, out=tmp_path, **options)
    # Ranks of a tenth: 6 of 64, 3 of 32.
    assert [t.ranks for t in result.layout.tensors] == [(6, 6), (3, 6), (3, 6), (6, 6)]
    figures = result.metrics
    # 20 steps are hardly a training; random directions explain nothing (FVU 1), these something.
    assert 0 < figures["fvu"] < 0.98
    assert figures["l0"] == 2.0
    assert figures["heldout_rows"] == 64
    assert 0 < figures["fvu_row_by_row"] < 1
    torch.testing.assert_close(result.decoder.flat().norm(dim=1), torch.ones(20))
    assert all(torch.equal(p, before[name]) for name, p in stories.named_parameters())
    loaded = Decomposition.from_pretrained(tmp_path / "final")
    loaded.verify(Target(stories, ATTENTION))
    assert torch.equal(loaded.decoder.weights, result.decoder.weights)
