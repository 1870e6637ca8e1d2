import json

import pytest
import torch

from subscape.cli.edit import _difference, parse_moves
from subscape.measures import Measures
from subscape.subnetworks.decomposition import Decomposition

transformers = pytest.importorskip("transformers")
PROMPT = ["--prompt", "once upon a", "--max-new-tokens", "4"]


def model_in(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def continued(model) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained("llama")
    ids = torch.tensor([[1, 2, 3]])
    for _ in range(4):
        with torch.no_grad():
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    return tokenizer.decode(ids[0, 3:], skip_special_tokens=True)


def test_before_and_after(folder, command):
    moves = ["--set", "0=3.5", "2=-4"]
    found = json.loads(command("edit", "stories", *moves, *PROMPT, "--json"))
    model = model_in("llama")
    made = Decomposition.from_pretrained("stories/final")
    assert found["deltas"] == {"0": 3.5, "2": -4}
    assert found["before"] == continued(model)
    assert found["after"] == continued(made.edited(model, {0: 3.5, 2: -4.0}))
    text = command("edit", "stories", *moves, *PROMPT)
    assert f"before  {found['before']}" in text
    assert f"after   {found['after']}" in text


def test_nothing_moved_says_the_same(command):
    found = json.loads(command("edit", "stories", "--set", "1=0", *PROMPT, "--json"))
    assert found["before"] == found["after"]


def test_an_edit_does_without_the_data_of_the_run(folder, command):
    (folder / "stories.txt").unlink()
    found = json.loads(command("edit", "stories", "--set", "1", *PROMPT, "--json"))
    assert found["after"]
    assert [change["rows"] for change in found["changes"]] == ["top samples of 1"]


def test_the_edited_model_is_saved_with_its_tokenizer(folder, command):
    found = json.loads(command("edit", "stories", "--set", "1=2", "--save", "new", "--json"))
    assert found["save"] == "new"
    expected = Decomposition.from_pretrained("stories/final").edited(model_in("llama"), {1: 2.0})
    for (name, p), (other, q) in zip(
        model_in("new").named_parameters(), expected.named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(p, q)
    assert transformers.AutoTokenizer.from_pretrained("new")("a cat")["input_ids"] == [3, 8]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_lora_that_peft_loads(folder, command):
    peft = pytest.importorskip("peft")
    tensors = ["--tensors", "*q_proj*", "*v_proj*"]
    command("edit", "stories", "--set", "1=2", "--lora", "lora", *tensors, "--json")
    loaded = peft.PeftModel.from_pretrained(model_in("llama"), "lora")
    made = Decomposition.from_pretrained("stories/final")
    model = model_in("llama")
    ids = torch.tensor([[1, 2, 3, 8]])
    with torch.no_grad():
        found = loaded(input_ids=ids).logits
        with made.edit(model, {1: 2.0}, tensors=tensors[1:]):
            assert (model(input_ids=ids).logits - found).abs().max() <= 1e-5
        assert (model(input_ids=ids).logits - found).abs().max() > 1e-3


def test_moves_are_read():
    assert parse_moves(("3=0.5", "17=-1")) == {3: (0.5, False), 17: (-1.0, False)}
    assert parse_moves(("3", "4=1x", "5=-.5x", "6=1e-3")) == {
        3: (1.0, True),
        4: (1.0, True),
        5: (-0.5, True),
        6: (0.001, False),
    }


def test_by_default_a_subnetwork_goes_as_far_as_it_was_measured(folder, command, refused):
    measured = Measures.load("stories/measures")
    own = {k: measured[k].side * measured[k].delta for k in (1, 2)}
    found = json.loads(command("edit", "stories", "--set", "1", "2=-2x", "--json"))
    assert found["deltas"] == {"1": own[1], "2": -2 * own[2]}
    (folder / "stories/measures/measures.json").unlink()
    error = refused("edit", "stories", "--set", "1")
    assert "set: expected a subnetwork with a measured δ; got a run that is not measured" in error
    assert "--set 1=0.5" in error


def probabilities(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1].softmax(0)


def test_what_an_edit_changes_stands_beside_a_random_direction(folder, command):
    found = json.loads(command("edit", "stories", "--set", "1=3", *PROMPT, "--json"))
    model, made = model_in("llama"), Decomposition.from_pretrained("stories/final")
    p, q = (probabilities(m) for m in (model, made.edited(model, {1: 3.0})))
    words = transformers.AutoTokenizer.from_pretrained("llama").convert_ids_to_tokens(range(11))
    most = int((q - p).abs().argmax())
    word, before, after = found["next_token"][0]
    assert word == words[most]
    assert (before, after) == pytest.approx((float(p[most]), float(q[most])), abs=1e-5)
    # KL(before ‖ after) over the top samples by hand, from the samples that the measures keep.
    kept = Measures.load("stories/measures")
    rows = kept[1].top_samples
    ids = kept.samples["input_ids"][[kept.samples["index"].tolist().index(r.sample) for r in rows]]
    with torch.no_grad():
        old, new = (
            m(input_ids=ids).logits[range(len(rows)), [r.position for r in rows]].log_softmax(1)
            for m in (model, made.edited(model, {1: 3.0}))
        )
    by_hand = float((old.exp() * (old - new)).sum(1).mean())
    own, drawn = found["changes"]
    assert (own["rows"], own["unit"]) == ("top samples of 1", "nats")
    assert own["change"] == pytest.approx(by_hand, rel=1e-4)
    assert own["random"] != own["change"]
    assert drawn["rows"] == "40 rows drawn at random"
    text = command("edit", "stories", "--set", "1=3", *PROMPT)
    assert "1: δ = +3" in text
    assert f"{words[most]!r}" in text.split("next token")[1]
    assert "--lora FOLDER" in text


def test_differences_are_shown_word_by_word():
    assert _difference("a cat sat there", "a dog sat") == "a [-cat-] {+dog+} sat [-there-]"
    assert _difference("a b", "a b") == "none: the same, word for word"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--prompt a", ["set: expected moves such as 3 or 3=0.5; got none"]),
        ("--set 3=x --prompt a", ["SUBNETWORK=δ", "'3=x'"]),
        ("--set a=1 --prompt a", ["SUBNETWORK=δ", "'a=1'"]),
        ("--set 3= --prompt a", ["SUBNETWORK=δ", "'3='"]),
        ("--set 4=1 --prompt a", ["subnetwork: expected one of the 4 of this run, 0 to 3; got 4"]),
        ("--set 1=inf --prompt a", ["deltas: expected a finite δ for subnetwork 1"]),
        ("--set 1=1e39 --prompt a", ["the range of torch.float32"]),
        ("--set 1=1 1=2 --prompt a", ["set: expected one δ per subnetwork; got two for 1"]),
        ("--set 1=1 --prompt a --tensors k_prj", ["'k_prj'"]),
        ("--set 1=1 --save stories.txt/new", ["stories.txt"]),
        ("--set 1=1 --save stories", ["stories, which holds files"]),
        ("--set 1=1 --lora llama", ["llama, which holds files"]),
        ("--set 1=1 --prompt a --model ./nowhere", ["a folder that exists"]),
    ],
)
def test_a_wrong_argument_gets_one_line(refused, arguments, words):
    error = refused("edit", "stories", *arguments.split())
    for word in words:
        assert word in error


def test_prompts_are_for_language_models(refused):
    error = refused("edit", "net", "--set", "1=1", "--prompt", "a")
    assert "prompt: expected a causal language model with a tokenizer" in error
    assert "save: expected a Hugging Face model" in refused(
        "edit", "net", "--set", "1=1", "--save", "new"
    )


def test_a_model_that_no_longer_matches(folder, refused):
    model = model_in("llama")
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.add_(0.1)
    model.save_pretrained("changed")
    error = refused("edit", "stories", "--set", "1=1", "--prompt", "a", "--model", "changed")
    assert "same shapes, other values" in error


def test_outputs_that_are_not_finite_are_told(folder, command, monkeypatch):
    right = transformers.LlamaForCausalLM.forward

    def forward(self, *arguments, **named):
        made = right(self, *arguments, **named)
        if not torch.equal(self.state_dict()[name], before):
            made.logits = made.logits / 0
        return made

    name = "model.layers.0.self_attn.v_proj.weight"
    before = model_in("llama").state_dict()[name]
    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", forward)
    found = json.loads(command("edit", "stories", "--set", "0=2", *PROMPT, "--json"))
    assert isinstance(found["before"], str)
    assert found["after"] is None
    text = command("edit", "stories", "--set", "0=2", *PROMPT)
    assert "after   outputs are not finite: take a smaller δ" in text
