"""An edit as a LoRA adapter, loaded by plain PEFT."""

import copy
import json

import pytest
import torch
from torch import nn

from subscape import Target
from subscape._io import read_tensors, write_tensors
from subscape.subnetworks.lora import save_lora

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

# transformers' own properties, which PEFT goes through.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

DELTAS = {1: 1.5, 3: -0.8}


def llama():
    config = transformers.LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
        initializer_range=0.4,
    )
    return transformers.LlamaForCausalLM(config)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=11,
        n_positions=8,
        n_embd=8,
        n_layer=2,
        n_head=2,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=None,
    )
    return transformers.GPT2LMHeadModel(config)


class Nested(nn.Module):
    """Layers of which some names end like others, and one weight in two layers."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.block = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
        self.c = nn.Linear(4, 4)
        self.c.weight = self.block["b"].weight

    def forward(self, input_ids):
        x = nn.functional.one_hot(input_ids % 4, 4).float()
        return self.c(
            torch.tanh(self.block["b"](torch.tanh(self.block["a"](torch.tanh(self.a(x))))))
        )


@pytest.fixture
def make(untrained):
    def make(model_of, parameters):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = model_of().eval()
        ids = torch.randint(0, 11, (5, 6), generator=torch.Generator().manual_seed(2))
        return model, untrained(Target(model, parameters), 4), ids

    return make


def logits(model, ids):
    with torch.no_grad():
        found = model(input_ids=ids)
    return found if isinstance(found, torch.Tensor) else found.logits


CASES = {
    "linear": (llama, ["model.layers.*.self_attn.*", "model.layers.0.mlp.*", "lm_head"]),
    "conv1d": (gpt2, ["*.attn.c_attn.weight", "*.mlp.*weight"]),
    "endings": (Nested, ["a.weight"]),
}


@pytest.mark.parametrize("case", list(CASES))
def test_plain_peft_loads_the_edit(make, case, tmp_path):
    model, made, ids = make(*CASES[case])
    with made.edit(model, DELTAS):
        expected = logits(model, ids)
    before = logits(model, ids)
    assert (expected - before).abs().max() > 1e-2
    folder = made.save_lora(tmp_path / "lora", model, DELTAS)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder)
    found = logits(loaded, ids)
    assert (found - expected).abs().max() <= 1e-5
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded, ids), before)
    merged = loaded.merge_and_unload()
    assert (logits(merged, ids) - expected).abs().max() <= 1e-5
    for name, change in made.edited(model, DELTAS).named_parameters():
        assert (merged.get_parameter(name) - change).abs().max() <= 1e-5
    assert torch.equal(logits(model, ids), before)


def test_only_the_layers_that_move_are_in_the_adapter(make, tmp_path):
    model, made, _ = make(*CASES["endings"])
    tensors = read_tensors(
        made.save_lora(tmp_path / "l", model, DELTAS) / "adapter_model.safetensors"
    )
    assert set(tensors) == {f"base_model.model.a.lora_{x}.weight" for x in "AB"}


def test_the_rank_is_that_of_the_subnetworks_together(make, tmp_path):
    """Two subnetworks of rank 2 make 4; one alone 2. Smaller layers are padded with zeros."""
    model, made, _ = make(llama, ["model.layers.*.self_attn.*"])
    for deltas, rank in ((DELTAS, 4), ({0: 1.0}, 2)):
        folder = made.save_lora(tmp_path / f"{rank}", model, deltas)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (rank, rank)
        for name, values in read_tensors(folder / "adapter_model.safetensors").items():
            assert values.shape[0 if "lora_A" in name else 1] == rank


def test_restriction_to_some_tensors(make, tmp_path):
    model, made, ids = make(llama, ["model.layers.*.self_attn.*", "model.norm.weight"])
    tensors = ["*", "!model.norm.weight"]
    with made.edit(model, DELTAS, tensors=tensors):
        expected = logits(model, ids)
    folder = made.save_lora(tmp_path / "l", model, DELTAS, tensors=tensors)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder)
    assert (logits(loaded, ids) - expected).abs().max() <= 1e-5


def test_no_move_is_an_adapter_that_does_nothing(make, tmp_path):
    model, made, ids = make(llama, ["model.layers.*.self_attn.*"])
    folder = made.save_lora(tmp_path / "l", model, {0: 0.0})
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder)
    torch.testing.assert_close(logits(loaded, ids), logits(model, ids), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model_of", "parameters", "names"),
    [
        (llama, ["model.norm.weight", "lm_head"], ["model.norm.weight"]),
        (
            llama,
            ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj"],
            ["model.embed_tokens.weight"],
        ),
        (Nested, ["a", "block.a.bias"], ["a.bias", "block.a.bias"]),
        (Nested, ["a.weight", "block.b.weight", "c.weight"], ["block.b.weight"]),
        # The head of GPT-2 is its embedding.
        (gpt2, ["lm_head.weight", "transformer.wte.weight"], ["transformer.wte.weight"]),
    ],
)
def test_what_is_no_linear_layers_weight_is_refused_by_name(
    make, model_of, parameters, names, tmp_path
):
    model, made, _ = make(model_of, parameters)
    with pytest.raises(ValueError, match="tensors: expected weights of linear layers") as caught:
        made.save_lora(tmp_path / "l", model, DELTAS)
    for name in names:
        assert repr(name) in str(caught.value)
    assert not (tmp_path / "l").exists()


def test_two_kinds_of_layers_are_refused(make, tmp_path):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = transformers.pytorch_utils.Conv1D(4, 4)

    model, made, _ = make(Both, ["*weight"])
    with pytest.raises(ValueError, match="Linear and Conv1D together"):
        made.save_lora(tmp_path / "l", model, DELTAS)


def test_a_folder_in_use_is_kept(make, tmp_path):
    model, made, _ = make(Nested, ["a.weight"])
    made.save_lora(tmp_path / "l", model, DELTAS)
    before = (tmp_path / "l" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="holds files"):
        made.save_lora(tmp_path / "l", model, {0: 1.0}, overwrite=False)
    assert (tmp_path / "l" / "adapter_model.safetensors").read_bytes() == before
    made.save_lora(tmp_path / "l", model, {0: 1.0})
    assert (tmp_path / "l" / "adapter_model.safetensors").read_bytes() != before


@pytest.mark.parametrize("name", ["notes.txt", "run.toml"])
def test_what_others_put_there_is_kept(make, tmp_path, name):
    model, made, _ = make(Nested, ["a.weight"])
    made.save_lora(tmp_path / "l", model, DELTAS)
    (tmp_path / "l" / name).write_text("mine")
    with pytest.raises(FileExistsError, match="no earlier result"):
        made.save_lora(tmp_path / "l", model, {0: 1.0}, overwrite=True)
    assert (tmp_path / "l" / name).read_text() == "mine"


def test_a_trained_adapter_is_kept(make, tmp_path):
    model, made, _ = make(Nested, ["a.weight"])
    (tmp_path / "l").mkdir()
    (tmp_path / "l" / "adapter_config.json").write_text("{}")
    write_tensors(
        tmp_path / "l" / "adapter_model.safetensors", {"a": torch.ones(1)}, {"format": "pt"}
    )
    with pytest.raises(FileExistsError, match="no earlier result"):
        made.save_lora(tmp_path / "l", model, DELTAS, overwrite=True)
    assert read_tensors(tmp_path / "l" / "adapter_model.safetensors")["a"].tolist() == [1]


def test_another_model_is_refused(make, tmp_path):
    model, made, _ = make(Nested, ["a.weight"])
    with torch.no_grad():
        model.a.weight.add_(1)
    with pytest.raises(ValueError, match="same shapes, other values"):
        made.save_lora(tmp_path / "l", model, DELTAS)


def test_a_plain_change_of_any_rank(make, tmp_path):
    model, _, _ = make(Nested, ["a.weight"])
    change = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    folder = save_lora(tmp_path / "l", model, {"a.weight": change})
    tensors = read_tensors(folder / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.a.lora_{x}.weight"] for x in "AB")
    torch.testing.assert_close(b @ a, change)
