"""Models by prefix, encoders, and classifiers of texts."""

import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from subscape.cli.loading import is_code, load_data, load_model
from subscape.cli.main import main
from subscape.cli.models import mean_pool
from subscape.cli.run_folder import open_run

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "##s", "sleep", "run", "dog", "."]
SIZES = dict(vocab_size=len(WORDS), hidden_size=8, intermediate_size=12, num_hidden_layers=1)
THINGS = ("a cat", "cats", "a dog", "dog", "dogs a cat", "run", "sleep")
TEXTS = [
    f"{a} {b} ." for a in THINGS for b in ("sleep", "run", "runs", "a", "sleeps", "dog", "cat")
]


def save_tokenizer(folder):
    vocabulary = {w: i for i, w in enumerate(WORDS)}
    pieces = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    pieces.decoder = tokenizers.decoders.WordPiece()
    pieces.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, **special).save_pretrained(folder)


def save_bert(kind, folder, **changes):
    config = transformers.BertConfig(**SIZES, num_attention_heads=2, **changes)
    config.initializer_range = 0.5
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("texts.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS))
    return save_bert("BertModel", tmp_path / "bert")


def test_the_mean_over_tokens_leaves_padding_out(encoder):
    loaded = load_model("transformers:bert", pooling="mean-pool")
    assert loaded.outputs is mean_pool
    alone = encoder(torch.tensor([[2, 4, 5, 3]])).last_hidden_state.mean(1)
    batch = {
        "input_ids": torch.tensor([[2, 4, 5, 3, 0, 0], [2, 4, 5, 6, 7, 3]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6]),
    }
    with torch.no_grad():
        torch.testing.assert_close(loaded.outputs(loaded.model, batch)[:1], alone)


def test_an_encoder_is_no_causal_language_model(encoder, tmp_path):
    with pytest.raises(ValueError, match=r"BertLMHeadModel; got bert without cls.* --outputs mean"):
        load_model("bert")
    save_bert("BertForMaskedLM", tmp_path / "masked")
    with pytest.raises(ValueError, match=r"got BertForMaskedLM, an encoder.*--outputs mean-pool"):
        load_model("masked")
    # Its pooler, which would be drawn at random, is no part of it.
    pooled = load_model("masked", pooling="mean-pool").model
    assert not any("pooler" in name for name, _ in pooled.named_parameters())


def test_a_model_of_another_task_is_named(tmp_path):
    sizes = dict(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    config = transformers.T5Config(**sizes, decoder_start_token_id=0)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match=r"a causal language model, .* \(T5ForConditional"):
        load_model(str(tmp_path / "t5"))


def test_an_incomplete_encoder_is_refused(encoder, tmp_path):
    from safetensors.torch import load_file, save_file

    file = tmp_path / "bert" / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.layer.0.output.dense.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"all weights of BertModel; got bert without encoder"):
        load_model("bert", pooling="mean-pool")


def test_every_text_is_a_padded_sample(encoder):
    batch = load_data("texts.jsonl", "bert", 6, "mean-pool")
    assert batch["input_ids"].shape == (49, 6)
    assert batch["input_ids"][7].tolist() == [2, 5, 6, 7, 10, 3]  # [CLS] cat ##s sleep . [SEP]
    assert batch["input_ids"][0].tolist()[-1] == 3
    short = load_data("texts.jsonl", "bert", 9, "mean-pool")
    assert short["input_ids"][7].tolist() == [2, 5, 6, 7, 10, 3, 0, 0, 0]
    assert short["attention_mask"][7].tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0]


@pytest.fixture
def run(encoder, capsys):
    """Runs a command that must succeed and returns what it printed."""

    def command(line, *more):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert main([*line.split(), *more]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return command


@pytest.mark.usefixtures("unchecked")
def test_an_encoder_from_decompose_to_report(run):
    run(
        "decompose bert --outputs mean-pool --parameters encoder.layer.0.attention --data texts.jsonl "
        "--window 9 --out run --steps 5 --batch-size 8 --n-subnetworks 3 --l0 2 --rank 1"
    )
    opened = open_run(Path("run"))
    assert opened.pooling == "mean-pool"
    assert opened.target().outputs_name == "mean_pool"
    run("measure run --n-rows 16 --n-top 3 --n-others 8 --n-deltas 2")
    shown = run("top run --subnetwork 0")
    assert "PAD" not in shown and "[[SEP]]" in shown and "output 3" in shown
    run("report run -o page.html")
    assert '"tokens":[2,' in Path("page.html").read_text()
    assert ",0]" not in Path("page.html").read_text().split('"samples":')[1].split('"rule_')[0]
    assert "'a cat sleep .'" in run("encode run --text", "a cat sleep .")


@pytest.mark.usefixtures("unchecked")
def test_a_classifier_of_texts_keeps_its_head(run, tmp_path):
    made = save_bert("BertForSequenceClassification", tmp_path / "judge", num_labels=3)
    loaded = load_model("judge")
    assert torch.equal(loaded.model.classifier.weight, made.classifier.weight)
    assert load_data("texts.jsonl", "judge", 9)["attention_mask"].sum(1).min() < 9
    line = "decompose judge --parameters classifier --data texts.jsonl --window 9 --out run"
    assert "kl" in run(f"{line} --steps 2 --batch-size 8 --n-subnetworks 2 --l0 1")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x)


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_models_of_packages_that_need_not_be_there(package, monkeypatch):
    """Stand-ins for the packages: what is called there, and what they say."""
    asked = []

    def create(name, **options):
        asked.append((name, options))
        if name == "no_such_net":
            raise RuntimeError("Unknown model")
        return Net()

    with pytest.raises(ImportError, match=rf"^{package}: expected to be installed, for {package}:"):
        load_model(f"{package}:some_net")
    timm, torchvision = types.ModuleType("timm"), types.ModuleType("torchvision")
    timm.create_model = create
    torchvision.models = types.ModuleType("torchvision.models")
    torchvision.models.get_model = create
    for module in (timm, torchvision, torchvision.models):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    state = torch.get_rng_state()
    loaded = load_model(f"{package}:some_net")
    assert isinstance(loaded.model, Net) and not loaded.model.training and loaded.outputs is None
    assert torch.equal(torch.get_rng_state(), state)
    options = {"pretrained": True} if package == "timm" else {"weights": "DEFAULT"}
    assert asked == [("some_net", options)]
    with pytest.raises(ValueError, match=r"got 'no_such_net' \(RuntimeError: Unknown model\)"):
        load_model(f"{package}:no_such_net")


def test_prefixes_are_no_code():
    names = ("transformers:a/b", "timm:resnet18", "torchvision:resnet18", "hf:a/b:train[:10]")
    assert not any(map(is_code, names))
    assert is_code("package.module:function")
