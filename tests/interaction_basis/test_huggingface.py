import warnings

import pytest
import torch

from subscape.interaction_basis import BasisConfig, build_bases, check_chain, decoder_chain
from subscape.interaction_basis.edges import interactions, interactions_by_vjp
from subscape.interaction_basis.huggingface import Norm

transformers = pytest.importorskip("transformers")
SIZES = dict(vocab_size=23, hidden_size=8, intermediate_size=12, num_hidden_layers=2)


def tiny(kind, attention="sdpa"):
    if kind == "llama":
        heads = dict(num_attention_heads=4, num_key_value_heads=2)
        config = transformers.LlamaConfig(**SIZES, **heads, attn_implementation=attention)
    else:
        sizes = dict(vocab_size=23, n_embd=8, n_layer=2, n_head=2, n_positions=16)
        config = transformers.GPT2Config(**sizes, attn_implementation=attention)
    return shaken(config)


def shaken(config):
    """A model whose norms and biases are none of ones and zeros."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    return model.double().eval()


def tokens(n=12, length=6):
    return torch.randint(0, 23, (n, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("blocks", [(0, None), (1, None), (0, 1), (1, 2)])
def test_composed_sections_give_the_models_logits(kind, attention, blocks):
    model = tiny(kind, attention)
    chain = decoder_chain(model, first_block=blocks[0], last_block=blocks[1])
    with torch.no_grad():
        wanted = model(tokens()).logits
        assert torch.allclose(chain.outputs(tokens()), wanted, atol=1e-6)
    if blocks == (0, None):
        assert len(chain.names) == 6 * 2 + 3
        widths = check_chain(chain, tokens())
        assert widths == [8, 9, 16] * 4 + [8, 9, 8]
        assert chain.names[:3] == ("ln1.0", "ln1_out.0", "attn_in.0")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_bases_and_edges_of_all_layers(kind):
    chain = decoder_chain(tiny(kind))
    bases = build_bases(chain, tokens(), BasisConfig(sign_positions=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layer, section in enumerate(chain.sections):
            pair = bases.lib[layer], bases.lib[layer + 1]
            with torch.no_grad():
                values = chain.nodes(tokens(4), layer)[-1]
            fast = interactions(section, *pair, [values])
            slow = interactions_by_vjp(section, *pair, [values])
            assert (fast - slow).abs().max() <= 1e-9 * slow.max()
    assert bases.lib[1].n_isolated == 1


def test_other_models_are_refused():
    model = tiny("llama")
    with pytest.raises(ValueError, match="eval mode"):
        decoder_chain(model.train())
    model.eval()
    with pytest.raises(ValueError, match="a range of the 2 blocks; got 1 to 1"):
        decoder_chain(model, first_block=1, last_block=1)
    with pytest.raises(ValueError, match="built like Llama or GPT-2; got Linear"):
        decoder_chain(torch.nn.Linear(2, 2).eval())
    phi = shaken(transformers.PhiConfig(**SIZES, num_attention_heads=2))
    with pytest.raises(ValueError, match=r"Llama or GPT-2; got PhiForCausalLM \(.*Write its"):
        decoder_chain(phi)
    model.model.norm.register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(ValueError, match="sections give its own logits"):
        decoder_chain(model)


def test_a_variance_that_an_ablation_made_negative_counts_as_0():
    norm = Norm(torch.ones(2).double(), None, 0.25, centred=False)
    # (variance -3, residual 1 and 2): times 1 / sqrt(0 + 1/4).
    assert norm.normalise(torch.tensor([[-3.0, 1.0, 2.0]]).double()).tolist() == [[2.0, 4.0]]


@pytest.mark.parametrize("window", [3, 16])
@pytest.mark.parametrize("kind", ["Mistral", "Qwen2"])
def test_windows_of_attention_are_kept_beyond_the_tokens_of_the_check(kind, window):
    more = {"use_sliding_window": True, "max_window_layers": 1} if kind == "Qwen2" else {}
    more |= dict(num_attention_heads=2, num_key_value_heads=2, sliding_window=window)
    model = shaken(getattr(transformers, f"{kind}Config")(**SIZES, **more))
    with torch.no_grad():
        wanted = model(tokens(2, 24)).logits
        assert torch.allclose(decoder_chain(model).outputs(tokens(2, 24)), wanted, atol=1e-6)


def test_the_real_model(data_dir):
    folder = data_dir / "stories260k"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    chain = decoder_chain(model)
    ids = torch.randint(0, 512, (2, 40))
    with torch.no_grad():
        wanted = model(ids).logits
        assert torch.allclose(chain.outputs(ids), wanted, atol=1e-4)
    assert len(chain.names) == 33
