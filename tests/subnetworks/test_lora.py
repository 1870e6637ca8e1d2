"""An edit as a LoRA adapter, loaded by plain PEFT."""

import copy
import json

import pytest
import torch
from torch import nn

from subscape import Target
from subscape._io import read_tensors, write_tensors
from subscape.subnetworks.lora import save_lora
from tests.conftest import Made, tiny

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

# transformers' own properties, which PEFT goes through.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

DELTAS = {1: 1.5, 3: -0.8}


def nested():
    """Layers of which some names end like others, and one weight in two layers."""

    def forward(self, input_ids):
        x = nn.functional.one_hot(input_ids % 4, 4).float()
        for layer in (self.a, self.block["a"], self.block["b"]):
            x = torch.tanh(layer(x))
        return self.c(x)

    a, c, *inner = (nn.Linear(4, 4) for _ in range(4))
    c.weight = inner[1].weight
    return Made(forward, a=a, block=nn.ModuleDict(dict(zip("ab", inner, strict=True))), c=c)


@pytest.fixture
def make(untrained):
    def make(model_of, parameters):
        model = tiny(model_of) if isinstance(model_of, str) else model_of().eval()
        ids = torch.randint(0, 11, (5, 6))
        return model, untrained(Target(model, parameters), 4), ids

    return make


def logits(model, ids):
    with torch.no_grad():
        found = model(input_ids=ids)
    return found if isinstance(found, torch.Tensor) else found.logits


CASES = {
    "linear": ("llama", ["model.layers.*.self_attn.*", "model.layers.0.mlp.*", "lm_head"]),
    "conv1d": ("gpt2", ["*.attn.c_attn.weight", "*.mlp.*weight"]),
    "endings": (nested, ["a.weight"]),
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
    model, made, _ = make("llama", ["model.layers.*.self_attn.*"])
    for deltas, rank in ((DELTAS, 4), ({0: 1.0}, 2)):
        folder = made.save_lora(tmp_path / f"{rank}", model, deltas)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (rank, rank)
        for name, values in read_tensors(folder / "adapter_model.safetensors").items():
            assert values.shape[0 if "lora_A" in name else 1] == rank


@pytest.mark.parametrize("deltas", [DELTAS, {0: 0.0}], ids=["some", "no move"])
def test_restriction_to_some_tensors(make, tmp_path, deltas):
    model, made, ids = make("llama", ["model.layers.*.self_attn.*", "model.norm.weight"])
    tensors = ["*", "!model.norm.weight"]
    with made.edit(model, deltas, tensors=tensors):
        expected = logits(model, ids)
    folder = made.save_lora(tmp_path / "l", model, deltas, tensors=tensors)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder)
    bound = 1e-5 if deltas is DELTAS else 0
    torch.testing.assert_close(logits(loaded, ids), expected, rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("model_of", "parameters", "names"),
    [
        ("llama", ["model.norm.weight", "lm_head"], ["model.norm.weight"]),
        (
            "llama",
            ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj"],
            ["model.embed_tokens.weight"],
        ),
        (nested, ["a", "block.a.bias"], ["a.bias", "block.a.bias"]),
        (nested, ["a.weight", "block.b.weight", "c.weight"], ["block.b.weight"]),
        # The head of GPT-2 is its embedding.
        ("gpt2", ["lm_head.weight", "transformer.wte.weight"], ["transformer.wte.weight"]),
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
    def both():
        return Made(None, a=nn.Linear(4, 4), b=transformers.pytorch_utils.Conv1D(4, 4))

    model, made, _ = make(both, ["*weight"])
    with pytest.raises(ValueError, match="Linear and Conv1D together"):
        made.save_lora(tmp_path / "l", model, DELTAS)


def test_a_folder_in_use_is_kept(make, tmp_path):
    model, made, _ = make(nested, ["a.weight"])
    made.save_lora(tmp_path / "l", model, DELTAS)
    before = (tmp_path / "l" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="holds files"):
        made.save_lora(tmp_path / "l", model, {0: 1.0})
    assert (tmp_path / "l" / "adapter_model.safetensors").read_bytes() == before
    made.save_lora(tmp_path / "l", model, {0: 1.0}, overwrite=True)
    assert (tmp_path / "l" / "adapter_model.safetensors").read_bytes() != before


@pytest.mark.parametrize("name", ["notes.txt", "run.toml"])
def test_what_others_put_there_is_kept(make, tmp_path, name):
    model, made, _ = make(nested, ["a.weight"])
    made.save_lora(tmp_path / "l", model, DELTAS)
    (tmp_path / "l" / name).write_text("mine")
    with pytest.raises(FileExistsError, match="no earlier result"):
        made.save_lora(tmp_path / "l", model, {0: 1.0}, overwrite=True)
    assert (tmp_path / "l" / name).read_text() == "mine"
    trained = tmp_path / "trained" / "adapter_model.safetensors"
    write_tensors(trained, {"a": torch.ones(1)}, {"format": "pt"})
    (trained.parent / "adapter_config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="no earlier result"):
        made.save_lora(trained.parent, model, DELTAS, overwrite=True)
    assert read_tensors(trained)["a"].tolist() == [1]


def test_another_model_is_refused(make, tmp_path):
    model, made, _ = make(nested, ["a.weight"])
    with torch.no_grad():
        model.a.weight.add_(1)
    with pytest.raises(ValueError, match="same shapes, other values"):
        made.save_lora(tmp_path / "l", model, DELTAS)


def test_a_plain_change_of_any_rank(make, tmp_path):
    model, _, _ = make(nested, ["a.weight"])
    change = torch.randn(4, 4)
    folder = save_lora(tmp_path / "l", model, {"a.weight": change})
    tensors = read_tensors(folder / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.a.lora_{x}.weight"] for x in "AB")
    torch.testing.assert_close(b @ a, change)
