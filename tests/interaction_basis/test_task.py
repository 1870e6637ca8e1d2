import sys

import pytest
import torch

from subscape.interaction_basis.task import decoder_task


def test_missing_transformers_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"subscape\[lm\]"):
        decoder_task("nowhere", "nothing")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_scored": 0}, "n_scored: expected a whole number of at least 1; got 0"),
        ({"n_sequences": 0}, "n_sequences: expected a whole number of at least 1"),
        ({"length": 1}, "length: expected a whole number of at least 2"),
        ({"length": 600}, "length: expected at most the 512 positions of the model; got 600"),
        ({"n_scored": 10**6}, "text: expected over 1000000 windows"),
        ({"n_scored": 10**6, "scored_text": True}, "scored_text: expected 1000000 windows"),
    ],
)
def test_numbers_that_a_text_or_model_does_not_have_are_refused(data_dir, settings, message):
    pytest.importorskip("transformers")
    text = data_dir / "tinystories" / "heldout_sample.txt"
    if "scored_text" in settings:
        settings = settings | {"scored_text": text}
    with pytest.raises(ValueError, match=message):
        decoder_task(data_dir / "stories260k", text, **settings)


def test_a_language_model_and_its_text(data_dir):
    pytest.importorskip("transformers")
    text = data_dir / "tinystories" / "heldout_sample.txt"
    task = decoder_task(data_dir / "stories260k", text, length=16, n_sequences=30, n_scored=8)
    assert task.inputs.shape == (30, 16)
    assert task.scored.inputs.shape == (8, 16)
    assert task.gram_inputs is not None and len(task.gram_inputs) > 1000
    assert 1.0 < task.scored.base(task.chain) < 4.0
    other = decoder_task(
        data_dir / "stories260k", text, scored_text=text, length=16, n_sequences=30, n_scored=8
    )
    assert torch.equal(other.scored.inputs, task.scored.inputs)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_folder_without_a_tokenizer_says_so(tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    sizes = dict(vocab_size=23, bos_token_id=0, eos_token_id=0)
    if kind == "llama":
        config = transformers.LlamaConfig(
            **sizes, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
    else:
        config = transformers.GPT2Config(**sizes, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("A story. " * 500)
    with pytest.raises(ValueError, match="weights: expected a tokenizer with the model in"):
        decoder_task(tmp_path / "model", tmp_path / "text.txt", length=8)
