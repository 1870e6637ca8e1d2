import pytest
import torch

from subscape.cli.loading import load_model

transformers = pytest.importorskip("transformers")
SIZES = dict(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1)


@pytest.mark.parametrize("base", [True, False])
def test_a_checkpoint_without_the_head_is_refused(tmp_path, base):
    """transformers would make a head of random numbers, another one at every load."""
    config = transformers.BertConfig(**SIZES, num_attention_heads=2, is_decoder=True)
    kind = transformers.BertModel if base else transformers.BertLMHeadModel
    kind(config).save_pretrained(tmp_path)
    if base:
        with pytest.raises(
            ValueError, match=r"^model: .*all weights of BertLMHeadModel; got .*cls\."
        ):
            load_model(str(tmp_path))
    else:
        load_model(str(tmp_path))


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_not_missing(tmp_path, tied):
    config = transformers.LlamaConfig(**SIZES, num_attention_heads=2, tie_word_embeddings=tied)
    saved = transformers.LlamaForCausalLM(config)
    saved.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path)).model
    assert torch.equal(loaded.lm_head.weight, saved.lm_head.weight)
