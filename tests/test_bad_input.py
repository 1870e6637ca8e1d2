"""Every mistake at the public door gives one clear error.

It names the argument, says what was expected and what came, and how to repair it. A case of the tables is a line
of code, and below it a piece of each of the four, between bars. Shape annotations are switched off here, as they
are for users.
"""

import json
import re
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import safetensors.torch
import torch
from torch import nn

import subscape
from subscape import Decomposition, GradientSource, Target, decompose, text_windows
from subscape.data import as_samples

SMALL: dict[str, Any] = {
    "n_subnetworks": 3,
    "rank": 1,
    "steps": 4,
    "batch_size": 8,
    "n_heldout_rows": 16,
    "progress": False,
}


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def net():
    return nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3))


def data(n=40, width=4):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def find(model=None, given=None, **options):
    return decompose(model or net(), data() if given is None else given, **SMALL | options)


def refused(call, said):
    """Check that `call` raises one error with 'argument | expected | got | repair' in their places.

    A type before all that, `TypeError: argument | …`, is that of the error, otherwise ValueError.
    """
    kind, _, parts = said.rpartition("Error: ")
    with pytest.raises(Exception, match="expected") as info:
        call()
    argument, expected, got, *repair = (re.escape(part.strip()) for part in parts.split("|"))
    pattern = rf"(?s){argument}: expected .*{expected}.*; got .*{got}.*{''.join(repair)}.*"
    assert type(info.value).__name__ == f"{kind or 'Value'}Error", info.value
    assert re.fullmatch(pattern, str(info.value)), f"{info.value}\nis not\n{parts}"
    assert len(str(info.value)) < 700


def cases(table):
    """The cases of a table: code, and what is said; code with `engine=EACH` is a case for each engine."""

    def each():
        lines = [line.strip() for line in table.splitlines() if line.strip()]
        for code, said in zip(lines[::2], lines[1::2], strict=True):
            engines = ["jacobian", "vmap", "loop"] if "=EACH" in code else [""]
            yield from ((code.replace("EACH", repr(engine)), said) for engine in engines)

    return pytest.mark.parametrize(("code", "said"), list(each()), ids=lambda value: value[:60])


def run(code, **names):
    public = {name: getattr(subscape, name) for name in subscape.__all__}
    eval(code, public | {"as_samples": as_samples} | globals() | names)


# The model


class Dropping(nn.Linear):
    """Dropout that no module shows."""

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5)


class Idle(nn.Linear):
    """A random operation without effect."""

    def forward(self, x):
        return super().forward(x) + 0 * torch.rand(1)


class Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x) if (x[:, 0] > 0).all() else -super().forward(x)


class Strings(nn.Linear):
    def forward(self, x):
        return ["no", "tensor"]


def tied():
    made = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    made["b"].weight = made["a"].weight
    return made


def quantised():
    made = nn.Linear(2, 2)
    made.codes = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
    return made


def switched_on():
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.1)).eval()
    target = Target(model)
    model.train()
    return find(target)


def behind(module, *, train=True):
    return nn.Sequential(nn.Linear(4, 5), nn.GELU(), module).train(train)


@cases("""
find(parameters="0.wieght")
    parameters | 4 names of named_parameters() | '0.wieght', which matches none | Did you mean '0.weight'?
find(parameters="0.weights")
    parameters | 4 names | '0.weights' | Did you mean '0.weight'?
Target(net(), ["*.weight", "decoder.layers.*"])
    parameters | patterns over the 4 names | 'decoder.layers.*' | named_parameters()
Target(net(), ["*.weight", "!*"])
    parameters | at least one parameter | ['*.weight', '!*'] | '!' patterns take away
Target(net(), "re:(")
    parameters | a regular expression after 're:' | 're:(' | escape
Target(nn.GELU())
    model | at least one parameter | GELU
Target(tied(), "a.*")
    parameters | all names of a tied parameter (['a.weight', 'b.weight'] are one tensor) | only ['a.weight']
Target(tied(), "a.*")
    parameters | all names | only | Add ['b.weight'], or exclude 'a.weight' with '!a.weight'.
Target(quantised())
    parameters | floating-point parameters | ['codes'] | Exclude them: '!codes'
find(behind(nn.Dropout(0.1)))
    model | dropout and batch norm in eval mode | train mode in ['2'] | Call model.eval() first.
find(behind(nn.BatchNorm1d(5)))
    model | dropout and batch norm in eval mode | train mode in ['2'] | Call model.eval() first.
switched_on()
    model | eval mode | train mode in ['1']
find(behind(nn.BatchNorm1d(5, track_running_stats=False), train=False))
    model | batch norm with running statistics | batch statistics in ['2'] | track_running_stats
find(Dropping(4, 3))
    model | the same outputs for the same inputs | differ from one call to the next | Call model.eval()
find(Idle(4, 3), engine="vmap")
    model | outputs that do not depend on chance | a random operation | switch its dropout off
find(Branching(4, 3), engine="vmap")
    engine | a model that vmap can follow | vmap | Use engine='loop'
find(Strings(4, 3))
    TypeError: outputs | a model that returns a tensor | list | outputs=lambda model, batch:
find(outputs=lambda m, b: m(b).sum(0))
    outputs | one entry per sample | shape [3] | Do not reduce over samples
find(outputs=lambda m, b: m(b).sum())
    outputs | one entry per sample | shape [] | Do not reduce over samples
find(outputs=lambda m, b: m(b)[:, 0])
    outputs | [sample, output] | shape [2] | [:, None]
find(outputs=lambda m, b: m(b) / 0)
    outputs | finite values | NaN or infinite | Check inputs and model.
find(rows="token")
    rows | outputs [sample, position, output] | shape [2, 3] | Use rows='sample'
""")
def test_models(code, said):
    refused(lambda: run(code), said)


def test_what_vmap_cannot_follow_the_loop_can():
    assert len(find(Branching(4, 3), engine="loop")) == 3


# Data


def windows(length):
    path = Path("short.txt")
    path.write_text("a b c<|endoftext|>d", encoding="utf-8")
    return text_windows(path, lambda text: {"input_ids": [1, 2]}, length=length)


def of(width):
    return torch.zeros(2, width)


@cases("""
find(given=torch.zeros(0, 4))
    data | at least 2 samples | 0 samples | Check the path
find(given=[])
    data | at least 2 samples | an iterable without batches | Check the path
find(given={})
    data | at least 2 samples | a mapping without tensors | Check the path
find(given={"text": ["a"]})
    data | at least 2 samples | a mapping without tensors | Check the path
find(given={"x": torch.zeros(0, 4)})
    data | at least 2 samples | 0 samples | Check the path
find(given=torch.utils.data.TensorDataset(torch.zeros(0, 4)))
    data | at least 2 samples | 0 samples | Check the path
as_samples("texts.txt")
    TypeError: data | a tensor, a mapping of tensors, or an iterable of batches | str | text_windows
as_samples(Path("texts.txt"))
    TypeError: data | a tensor, a mapping of tensors, or an iterable of batches | Path | text_windows
as_samples(3)
    TypeError: data | a tensor, a mapping of tensors, or an iterable of batches | int | text_windows
as_samples(None)
    TypeError: data | a tensor, a mapping of tensors, or an iterable of batches | NoneType | text_windows
as_samples(b"abc")
    TypeError: data | a tensor, a mapping of tensors, or an iterable of batches | bytes | text_windows
as_samples(torch.tensor(3.0))
    data | samples along the first axis | shape []
as_samples({"x": torch.zeros(3), "flag": torch.tensor(1)})
    data | samples along the first axis | shape []
as_samples({"a": torch.zeros(3), "b": torch.zeros(4)})
    data | tensors of one length | {'a': 3, 'b': 4} | Cut them to the same samples.
as_samples([of(4), of(5)])
    data | batches of the same tensors, equal but for their number of samples | batch 1 | Pad or cut
as_samples([{"a": of(4)}, {"b": of(4)}])
    data | batches of the same tensors, equal but for their number of samples | batch 1 | Pad or cut
as_samples([of(4), {"a": of(4)}])
    data | batches of the same tensors, equal but for their number of samples | batch 1 | Pad or cut
find(given=data(width=7))
    data | inputs that the model takes | shape [2, 7] | Try model(data[:2])
find(nn.Embedding(5, 3), torch.arange(9, 89).view(40, 2))
    data | inputs that the model takes | out of range | Try model(data[:2])
find(given=data(3))
    data | at least 4 samples | 3 | Give more data, or held-out data of their own by heldout=.
find(heldout=torch.randn(1, 4))
    heldout | at least 2 samples that are not in data | 1 of 1
find(batch_size=37)
    batch_size | at most the 36 samples there are | 37 | Lower it, or give more data.
find(nn.Embedding(99, 3), torch.arange(80).view(40, 2), rows="token", batch_size=9)
    batch_size | a multiple of the 2 positions of a sample for 'token' rows | 9 | 10 would do.
windows(16)
    data | at least one text of 16 tokens | 2 shorter ones | Lower the window length
windows(0)
    length | a whole number of at least 1 | 0
windows(-1)
    length | a whole number of at least 1 | -1
""")
def test_data(code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(lambda: run(code), said)


# Divergence, reference, gradients


def constant(model, batch):
    """The same outputs for all samples, whose inputs are zero."""
    return model(0 * batch)


def spoilt(bad):
    given = data()
    given[20:, 0] = float(bad)  # not among the samples that are tried first
    return given


@cases("""
find(divergence="msee", engine=EACH)
    divergence | 'mse', 'half-reference-mse', 'kl' | 'msee' | Did you mean 'mse'?
find(divergence=lambda f, r: ((f - r) ** 2).mean(), engine=EACH)
    divergence | one value per row, shape [ | shape [] | flatten(1)
find(divergence=lambda f, r: (f - r) ** 2, engine=EACH)
    divergence | one value per row, shape [ | , 3] | flatten(1)
find(divergence=lambda f, r: (f.detach() - r).sum(1), engine=EACH)
    divergence | depend on the outputs | without a gradient | detach
find(divergence=lambda f, r: f.argmax(1), engine=EACH)
    divergence | depend on the outputs | without a gradient | detach
find(divergence=lambda f, r: None, engine=EACH)
    divergence | one value per row | NoneType | flatten(1)
find(reference="another_row")
    reference | 'another-row', 'batch-mean', 'uniform' | 'another_row' | 'another-row'?
find(reference=FixedOutput(torch.zeros(1, 3)))
    reference | fixed output of shape [3] | [1, 3] | without a row axis
find(reference=Pairs(torch.zeros(40, 2)))
    reference | one output [3] for every sample | [36, 2] | order of the data
find(reference=Pairs(torch.zeros(39, 3)))
    reference | pairs for the 40 samples | 39 pairs | every sample
find(reference=Pairs(torch.zeros(40, 3)), heldout=data())
    reference | no heldout data | 40 pairs and heldout data | as a part of data
find(reference=lambda f, rows: f[:1])
    reference | one output per row, shape [ | shape [1, 3] | shape of outputs
find(reference=lambda f, rows: f[:, 0])
    reference | one output per row | shape [ | shape of outputs
find(reference=lambda f, rows: None)
    reference | one output per row | NoneType | shape of outputs
find(given=spoilt("nan"), reference="uniform", engine=EACH)
    gradients | finite row gradients | NaN or infinite values in ['0.weight' | Check the inputs
find(given=spoilt("inf"), reference="uniform", engine=EACH)
    gradients | finite row gradients | NaN or infinite values in ['0.weight' | Check the inputs
find(outputs=constant, divergence=lambda f, r: (f - r).square().sum(1).sqrt())
    gradients | finite row gradients | NaN or infinite values | the divergence
GradientSource(Target(nn.Embedding(5, 3)), of(2).long(), rows="token", engine="jacobian")
    engine | 'rule', 'replay', 'vmap' or 'loop' for token rows | 'jacobian' | Use engine='auto'.
find(out="run", outputs=constant)
    gradients | not all zero | only zeros | do not depend on the chosen parameters
find(out="run", outputs=lambda m, b: b * 1.0)
    gradients | not all zero | only zeros | do not depend on the chosen parameters
find(out="run", outputs=constant, parameters="0.weight", reference="uniform")
    gradients | not all zero | only zeros | do not depend on the chosen parameters
""")
def test_gradients(code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(lambda: run(code), said)
    # Found before the first step.
    assert {path.name for path in Path("run").glob("*")} <= {".lock"}


# Settings

SETTINGS: list[tuple[str, Any, str]] = [
    *(
        ("active_fraction", k, "a share in (0, 1] | {} | 0.1 keeps a tenth")
        for k in (0, 0.0, -0.1, 1.5, 10, float("nan"))
    ),
    *(("l0", l0, "active subnetworks per row in (0, 3] | {}") for l0 in (0, -1, 4, float("nan"))),
    ("rank", 6, "at most the dimensions [5, 4] of '0.weight' | 6 | give a fraction such as 0.1"),
    ("rank", {"0.weight": (5, 5), "*": 1}, "at most the dimensions [5, 4] | (5, 5) | Lower it"),
    (
        "rank",
        0,
        "one positive rank for each of the 2 modes of '0.weight' [5, 4] | 0 | Give an integer",
    ),
    ("rank", {"0.*": 1}, "'2.weight' among them | ['0.*'] | a last entry '*'"),
    ("rank", 4.0, "a fraction in (0, 1) or an integer | 4.0 | Write 4, not 4.0."),
    ("rank", "4", "a fraction in (0, 1) or an integer | '4' | Write 4, not 4.0."),
    ("form", "svd", "'tucker' or 'cp' | {}"),
    ("schedule", "linear", "'cosine', 'step' or 'constant' | {}"),
    (
        "selection",
        "batch-topk",
        "['batch-top-k', 'group-top-k', 'jumprelu'] | {} | Did you mean 'batch-top-k'?",
    ),
    ("rows", "word", "['sample', 'sampled-token', 'token'] | {}"),
    ("engine", "hooks", "'auto', 'jacobian', 'rule', 'replay', 'vmap' or 'loop' | {}"),
    ("row_weight", "length", "'norm', 'output', 'unit' | {}"),
    ("n_subnetworks", 2.5, "a whole number of at least 1 | {}"),
    ("group_size", 0, "a whole number of at least 1 | {}"),
    ("steps", 0, "a whole number of at least 1 | {}"),
    ("batch_size", "8", "a whole number of at least 1 | {}"),
    ("micro_batch_size", 0, "a whole number of at least 1 | {}"),
    ("checkpoint_every", 0, "a whole number of at least 1 | {}"),
    ("learning_rate", -1.0, "a positive number | {}"),
    ("learning_rate", 1e30, "FVU stays finite | 1e+30 | Lower it."),
    ("dense_warmup", 2.0, "a share of the steps | {}"),
    ("ranks", 3, "a setting | an unknown one | Did you mean 'rank'?"),
]


@pytest.mark.parametrize(("name", "value", "said"), SETTINGS, ids=str)
def test_settings(name, value, said):
    said = said.replace("{}", repr(value))
    refused(lambda: find(**{name: value}), f"{name} | {said}")


def test_two_settings_that_say_the_same():
    said = "l0 | l0 or active_fraction | l0=1 and active_fraction=0.3 | Leave one of them out."
    refused(lambda: find(l0=1, active_fraction=0.3), said)


def test_groups_by_learned_thresholds():
    said = "group_size | 1 with selection='jumprelu' | 2 | Use selection='batch-top-k' for groups."
    refused(lambda: find(selection="jumprelu", group_size=2), said)


# Files


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return find().save_pretrained("saved")


def cut(keep):
    TENSORS.write_bytes(TENSORS.read_bytes()[:keep])


def tensors(change):
    safetensors.torch.save_file(change(safetensors.torch.load_file(TENSORS)), TENSORS)


def config(**changes):
    kept = json.loads(CONFIG.read_text()) | changes
    CONFIG.write_text(
        json.dumps({name: value for name, value in kept.items() if value is not None})
    )


TENSORS, CONFIG = Path("saved/subnetworks.safetensors"), Path("saved/config.json")
HALF = '{"method": "l3d", "format_version": "1.0", "n_subnetworks": 3, "threshold": 0.0,'
HALF += '"target": {}, "layout": [{}]}'


@pytest.mark.usefixtures("saved")
@cases("""
cut(0)
    saved/subnetworks.safetensors | a whole safetensors file |  | write it again
cut(4)
    saved/subnetworks.safetensors | a whole safetensors file |  | write it again
cut(50)
    saved/subnetworks.safetensors | a whole safetensors file |  | write it again
cut(-1)
    saved/subnetworks.safetensors | a whole safetensors file |  | write it again
tensors(lambda t: {"embedding": torch.zeros(2)})
    saved/subnetworks.safetensors | encoder.0.weight.core of shape [3, 1, 1] | no such tensor | does not go with
tensors(lambda t: {k: v for k, v in t.items() if "selection" not in k})
    saved/subnetworks.safetensors | selection.threshold of shape [] | no such tensor | does not go with
tensors(lambda t: t | {"decoder.2.bias.core": torch.zeros(3, 4)})
    saved/subnetworks.safetensors | decoder.2.bias.core of shape [3, 3] | [3, 4] | does not go with config.json
CONFIG.write_text("")
    saved/config.json | a JSON file |
CONFIG.write_text('{"method": "l3d", "lay')
    saved/config.json | a JSON file |
CONFIG.write_text("[1, 2]")
    saved/config.json | the config of a saved decomposition |
CONFIG.write_text('{"architectures": ["LlamaForCausalLM"]}')
    saved/config.json | the config of a saved decomposition |
CONFIG.write_text(HALF)
    saved/config.json | the config of a saved decomposition |
config(n_subnetworks=None)
    saved/config.json | the config of a saved decomposition | `n_subnetworks` | save_pretrained
config(selection=None)
    saved/config.json | the config of a saved decomposition | `selection` | save_pretrained
config(target=None)
    saved/config.json | the config of a saved decomposition | `target` | save_pretrained
config(layout=None)
    saved/config.json | the config of a saved decomposition | `layout` | save_pretrained
config(format_version="1.0")
    saved/config.json | a `threshold` | none | save_pretrained
config(format_version="3.0")
    saved/config.json | format_version 2.0 or 1.0 | '3.0' | Update subscape
config(selection={"kind": "top-k", "l0": 1})
    saved/config.json | ['batch-top-k', 'group-top-k', 'jumprelu'] | 'top-k'
""")
def test_saved_decompositions(code, said):
    run(code)
    refused(lambda: Decomposition.from_pretrained("saved"), said)


def gradients_of_another():
    source = GradientSource(Target(nn.Linear(4, 3)), data())
    return source.gradients(source.rows(0, 4))


@pytest.mark.usefixtures("saved")
@cases("""
loaded.verify(Target(net()))
    target | parameter values with SHA-256 | same shapes, other values | Load the very checkpoint
loaded.verify(Target(nn.Linear(4, 5)))
    target | the parameters ['0.weight', '0.bias', '2.weight', '2.bias'] | unknown ['bias', 'weight'] | Choose
loaded.verify(Target(nn.Linear(4, 5)))
    target | the parameters | missing ['0.bias', '0.weight', '2.bias', '2.weight'] | the same parameters
loaded.encode(net(), data())
    target | parameter values with SHA-256 | same shapes, other values | Load the very checkpoint
loaded.decode(torch.zeros(2, 4))
    coefficients | one column for each of the 3 subnetworks | shape [2, 4] | Use what encode
loaded.encode_gradients(gradients_of_another())
    gradients | rows of 43 parameters | 15 | the target this decomposition was made for
loaded[3]
    IndexError: index | a subnetwork from 0 to 2 | 3
loaded["0.weight"]
    TypeError: index | a whole number | '0.weight'
loaded[0:2]
    TypeError: index | a whole number | slice
loaded.save_pretrained("saved", overwrite=False)
    FileExistsError: path | a folder that is new or empty | saved | overwrite=True
find(out=CONFIG)
    out | a folder to make or to resume | a file | another path
""")
def test_loaded_decompositions(code, said):
    refused(lambda: run(code, loaded=Decomposition.from_pretrained("saved")), said)


def test_a_truncated_or_foreign_checkpoint(tmp_path):
    def run():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return find(out=tmp_path)

    run()
    file = tmp_path / "checkpoint.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    refused(run, f"{file} | a whole safetensors file |  | write it again")
    safetensors.torch.save_file({"step": torch.tensor(3)}, file)
    refused(run, "out | a run folder | which is no checkpoint | Choose another folder.")
    file.write_bytes(whole)
    run()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "nowhere"))):
        Decomposition.from_pretrained(tmp_path / "nowhere")
