"""Every mistake at the public door gives one clear error.

It names the argument, says what was expected and what came, and how to repair it: a line of the tables names a
piece of each, between bars. Shape annotations are switched off here, as they are for users.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from subscape import (
    Decomposition,
    FixedOutput,
    GradientSource,
    Pairs,
    Target,
    decompose,
    text_windows,
)
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
def as_users_have_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3))


def data(n: int = 40, width: int = 4) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def find(model: Any = None, given: Any = None, **options: Any) -> Decomposition:
    return decompose(model or net(), data() if given is None else given, **SMALL | options)


def refused(
    call: Callable[[], object], parts: str, error: type[Exception] = ValueError, *given: Any
) -> None:
    """Check that `call` raises one error with 'argument | expected | got | repair' in their places."""
    with pytest.raises(error) as info:
        call(*given)
    argument, expected, got, *repair = (re.escape(part) for part in parts.split(" | "))
    said = rf"(?s){argument}: expected .*{expected}.*; got .*{got}.*{''.join(repair)}.*"
    assert re.fullmatch(said, str(info.value)), f"{info.value}\nis not\n{parts}"
    assert type(info.value) is error
    assert len(str(info.value)) < 700


def every(cases: dict[str, tuple]) -> Any:
    """The cases of a table: what is called, what is said, and the error if it is no ValueError."""
    rows = [
        pytest.param(call, *(*said, ValueError)[:2], id=name)
        for name, (call, *said) in cases.items()
    ]
    return pytest.mark.parametrize(("call", "parts", "error"), rows)


# The model


class Dropping(nn.Linear):
    """Dropout that no module shows."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5)


class Idle(nn.Linear):
    """A random operation without effect."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * torch.rand(1)


class Branching(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if (x[:, 0] > 0).all() else -super().forward(x)


class Strings(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return ["no", "tensor"]


def tied() -> nn.Module:
    made = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    made["b"].weight = made["a"].weight
    return made


def quantised() -> nn.Module:
    made = nn.Linear(2, 2)
    made.codes = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
    return made


def switched_on() -> Decomposition:
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.1)).eval()
    target = Target(model)
    model.train()
    return find(target)


def behind(module: nn.Module, *, train: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.GELU(), module).train(train)


TRAIN = (
    "model | dropout and batch norm in eval mode | train mode in ['2'] | Call model.eval() first."
)

MODEL: dict[str, tuple] = {
    "a glob near a name": (
        lambda: find(parameters="0.wieght"),
        "parameters | 4 names of named_parameters() | '0.wieght', which matches none | Did you mean '0.weight'?",
    ),
    "another": (
        lambda: find(parameters="0.weights"),
        "parameters | 4 names | '0.weights' | Did you mean '0.weight'?",
    ),
    "a glob near nothing": (
        lambda: Target(net(), ["*.weight", "decoder.layers.*"]),
        "parameters | patterns over the 4 names | 'decoder.layers.*' | named_parameters()",
    ),
    "all taken away": (
        lambda: Target(net(), ["*.weight", "!*"]),
        "parameters | at least one parameter | ['*.weight', '!*'] | '!' patterns take away",
    ),
    "a bad expression": (
        lambda: Target(net(), "re:("),
        "parameters | a regular expression after 're:' | 're:(' | escape",
    ),
    "no parameters": (lambda: Target(nn.GELU()), "model | at least one parameter | GELU"),
    "half of a tied one": (
        lambda: Target(tied(), "a.*"),
        "parameters | all names of a tied parameter (['a.weight', 'b.weight'] are one tensor) | only ['a.weight']"
        " | Add ['b.weight'], or exclude 'a.weight' with '!a.weight'.",
    ),
    "integers": (
        lambda: Target(quantised()),
        "parameters | floating-point parameters | ['codes'] | Exclude them: '!codes'",
    ),
    "dropout": (lambda: find(behind(nn.Dropout(0.1))), TRAIN),
    "batch norm": (lambda: find(behind(nn.BatchNorm1d(5))), TRAIN),
    "switched on later": (switched_on, "model | eval mode | train mode in ['1']"),
    "statistics of the batch": (
        lambda: find(behind(nn.BatchNorm1d(5, track_running_stats=False), train=False)),
        "model | batch norm with running statistics | batch statistics in ['2'] | track_running_stats",
    ),
    "hidden dropout": (
        lambda: find(Dropping(4, 3)),
        "model | the same outputs for the same inputs | differ from one call to the next | Call model.eval()",
    ),
    "chance under vmap": (
        lambda: find(Idle(4, 3), engine="vmap"),
        "model | outputs that do not depend on chance | a random operation | switch its dropout off",
    ),
    "branches under vmap": (
        lambda: find(Branching(4, 3), engine="vmap"),
        "engine | a model that vmap can follow | vmap | Use engine='loop'",
    ),
    "no tensor": (
        lambda: find(Strings(4, 3)),
        "outputs | a model that returns a tensor | list | outputs=lambda model, batch:",
        TypeError,
    ),
    "a sum over samples": (
        lambda: find(outputs=lambda m, b: m(b).sum(0)),
        "outputs | one entry per sample | shape [3] | Do not reduce over samples",
    ),
    "a scalar": (
        lambda: find(outputs=lambda m, b: m(b).sum()),
        "outputs | one entry per sample | shape [] | Do not reduce over samples",
    ),
    "one number a sample": (
        lambda: find(outputs=lambda m, b: m(b)[:, 0]),
        "outputs | [sample, output] | shape [2] | [:, None]",
    ),
    "infinite outputs": (
        lambda: find(outputs=lambda m, b: m(b) / 0),
        "outputs | finite values | NaN or infinite | Check inputs and model.",
    ),
    "no positions": (
        lambda: find(rows="token"),
        "rows | outputs [sample, position, output] | shape [2, 3] | Use rows='sample'",
    ),
}


@every(MODEL)
def test_models(call: Callable, parts: str, error: type[Exception]):
    refused(call, parts, error)


def test_what_vmap_cannot_follow_the_loop_can():
    assert len(find(Branching(4, 3), engine="loop")) == 3


# Data

NONE = ["0 samples", "an iterable without batches", "a mapping without tensors"]
BATCHES = "data | batches of the same tensors, equal but for their number of samples | batch 1 | Pad or cut"


def windows(length: int) -> Any:
    path = Path("short.txt")
    path.write_text("a b c<|endoftext|>d", encoding="utf-8")
    return text_windows(path, lambda text: {"input_ids": [1, 2]}, length=length)


DATA: dict[str, tuple] = {
    **{
        f"none in {type(given).__name__} {number}": (
            lambda given=given: find(given=given),
            f"data | at least 2 samples | {got} | Check the path",
        )
        for number, (given, got) in enumerate([
            (torch.zeros(0, 4), NONE[0]),
            ([], NONE[1]),
            ({}, NONE[2]),
            ({"text": ["a"]}, NONE[2]),
            ({"x": torch.zeros(0, 4)}, NONE[0]),
            (TensorDataset(torch.zeros(0, 4)), NONE[0]),
        ])
    },
    **{
        f"{given!r}": (
            lambda given=given: as_samples(given),
            "data | a tensor, a mapping of tensors, or an iterable of batches"
            f" | {type(given).__name__} | text_windows",
            TypeError,
        )
        for given in ("texts.txt", Path("texts.txt"), 3, None, b"abc")
    },
    "a number": (
        lambda: as_samples(torch.tensor(3.0)),
        "data | samples along the first axis | shape []",
    ),
    "a number among columns": (
        lambda: as_samples({"x": torch.zeros(3), "flag": torch.tensor(1)}),
        "data | samples along the first axis | shape []",
    ),
    "columns of different length": (
        lambda: as_samples({"a": torch.zeros(3), "b": torch.zeros(4)}),
        "data | tensors of one length | {'a': 3, 'b': 4} | Cut them to the same samples.",
    ),
    **{
        f"batches of other {what}": (lambda given=given: as_samples(given), BATCHES)
        for what, given in {
            "shapes": [torch.zeros(2, 4), torch.zeros(2, 5)],
            "keys": [{"a": torch.zeros(2, 4)}, {"b": torch.zeros(2, 4)}],
            "kinds": [torch.zeros(2, 4), {"a": torch.zeros(2, 4)}],
        }.items()
    },
    "another width": (
        lambda: find(given=data(width=7)),
        "data | inputs that the model takes | shape [2, 7] | Try model(data[:2])",
    ),
    "numbers out of range": (
        lambda: find(nn.Embedding(5, 3), torch.arange(9, 89).view(40, 2)),
        "data | inputs that the model takes | out of range | Try model(data[:2])",
    ),
    "too few to hold some out": (
        lambda: find(given=data(3)),
        "data | at least 4 samples | 3 | Give more data, or held-out data of their own by heldout=.",
    ),
    "one held out": (
        lambda: find(heldout=torch.randn(1, 4)),
        "heldout | at least 2 samples that are not in data | 1 of 1",
    ),
    "fewer than a batch": (
        lambda: find(batch_size=37),
        "batch_size | at most the 36 samples there are | 37 | Lower it, or give more data.",
    ),
    "no whole sequences": (
        lambda: find(nn.Embedding(99, 3), torch.arange(80).view(40, 2), rows="token", batch_size=9),
        "batch_size | a multiple of the 2 positions of a sample for 'token' rows | 9 | 10 would do.",
    ),
    "no text long enough": (
        lambda: windows(16),
        "data | at least one text of 16 tokens | 2 shorter ones | Lower the window length",
    ),
    "windows of no length": (lambda: windows(0), "length | a whole number of at least 1 | 0"),
    "windows of less": (lambda: windows(-1), "length | a whole number of at least 1 | -1"),
}


@every(DATA)
def test_data(call: Callable, parts: str, error: type[Exception], tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(call, parts, error)


# Divergence, reference, gradients

ENGINES = ["jacobian", "vmap", "loop"]


def constant(model: nn.Module, batch: Tensor) -> Tensor:
    """The same outputs for all samples, whose inputs are zero."""
    return model(0 * batch)


def spoilt(bad: float) -> Tensor:
    given = data()
    given[20:, 0] = bad  # not among the samples that are tried first
    return given


DIVERGENCES = {
    "name": ("msee", "'mse', 'half-reference-mse', 'kl' | 'msee' | Did you mean 'mse'?"),
    "scalar": (
        lambda f, r: ((f - r) ** 2).mean(),
        "one value per row, shape [ | shape [] | flatten(1)",
    ),
    "per output": (lambda f, r: (f - r) ** 2, "one value per row, shape [ | , 3] | flatten(1)"),
    "detached": (
        lambda f, r: (f.detach() - r).sum(1),
        "depend on the outputs | without a gradient | detach",
    ),
    "integer": (
        lambda f, r: f.argmax(1),
        "depend on the outputs | without a gradient | detach",
    ),
    "none": (lambda f, r: None, "one value per row | NoneType | flatten(1)"),
}
REFERENCES = {
    "name": (
        "another_row",
        "'another-row', 'batch-mean', 'uniform' | 'another_row' | 'another-row'?",
    ),
    "fixed": (
        FixedOutput(torch.zeros(1, 3)),
        "fixed output of shape [3] | [1, 3] | without a row axis",
    ),
    "pairs": (
        Pairs(torch.zeros(40, 2)),
        "one output [3] for every sample | [36, 2] | order of the data",
    ),
    "too few pairs": (
        Pairs(torch.zeros(39, 3)),
        "pairs for the 40 samples | 39 pairs | every sample",
    ),
    "one row": (
        lambda f, rows: f[:1],
        "one output per row, shape [ | shape [1, 3] | shape of outputs",
    ),
    "one output": (lambda f, rows: f[:, 0], "one output per row | shape [ | shape of outputs"),
    "none": (lambda f, rows: None, "one output per row | NoneType | shape of outputs"),
}
GRADIENTS: dict[str, tuple] = {
    **{
        f"divergence, {name}, {engine}": (
            lambda given=given, engine=engine: find(divergence=given, engine=engine),
            f"divergence | {said}",
        )
        for name, (given, said) in DIVERGENCES.items()
        for engine in ENGINES
    },
    **{
        f"reference, {name}": (
            lambda given=given: find(reference=given),
            f"reference | {said}",
        )
        for name, (given, said) in REFERENCES.items()
    },
    "pairs with held-out data": (
        lambda: find(heldout=data(), reference=Pairs(torch.zeros(40, 3))),
        "reference | no heldout data | 40 pairs and heldout data | as a part of data",
    ),
    **{
        f"{bad} by {engine}": (
            lambda bad=bad, engine=engine: find(
                given=spoilt(bad), engine=engine, reference="uniform"
            ),
            "gradients | finite row gradients | NaN or infinite values in ['0.weight' | Check the inputs",
        )
        for bad in (float("nan"), float("inf"))
        for engine in ENGINES
    },
    # The square root has an infinite slope at 0: rows that equal their reference.
    "no slope at a point": (
        lambda: find(outputs=constant, divergence=lambda f, r: (f - r).square().sum(1).sqrt()),
        "gradients | finite row gradients | NaN or infinite values | the divergence",
    ),
    "a jacobian of tokens": (
        lambda: GradientSource(
            Target(nn.Embedding(5, 3)), torch.zeros(4, 2).long(), rows="token", engine="jacobian"
        ),
        "engine | 'rule', 'replay', 'vmap' or 'loop' for token rows | 'jacobian' | Use engine='auto'.",
    ),
}


@every(GRADIENTS)
def test_gradients(call: Callable, parts: str, error: type[Exception]):
    refused(call, parts, error)


@pytest.mark.parametrize(
    "options",
    [
        {"outputs": constant},  # every row equals its reference
        {"outputs": lambda m, b: b * 1.0},  # outputs that do not depend on parameters
        # A weight that only meets zeros.
        {"outputs": constant, "parameters": "0.weight", "reference": "uniform"},
    ],
    ids=["equal rows", "no dependence", "zero inputs"],
)
def test_gradients_that_are_all_zero(options: dict, tmp_path: Path):
    said = "gradients | not all zero | only zeros | do not depend on the chosen parameters"
    refused(lambda: find(out=tmp_path, **options), said)
    # Found before the first step.
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


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
    ("selection", "top-k", "['batch-top-k', 'jumprelu'] | {} | Did you mean 'batch-top-k'?"),
    ("rows", "word", "['sample', 'sampled-token', 'token'] | {}"),
    ("engine", "hooks", "'auto', 'jacobian', 'rule', 'replay', 'vmap' or 'loop' | {}"),
    ("row_weight", "length", "'norm', 'output', 'unit' | {}"),
    ("n_subnetworks", 2.5, "a whole number of at least 1 | {}"),
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
def test_settings(name: str, value: Any, said: str):
    refused(
        lambda: find(**{name: value}),
        f"{name} | {said.format(repr(value)) if '{}' in said else said}",
    )


def test_two_settings_that_say_the_same():
    said = "l0 | l0 or active_fraction | l0=1 and active_fraction=0.3 | Leave one of them out."
    refused(lambda: find(l0=1, active_fraction=0.3), said)


# Files


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return find().save_pretrained(tmp_path / "saved")


def test_folders(saved: Path, tmp_path: Path):
    loaded = Decomposition.from_pretrained(saved)
    said = f"path | a folder that is new or empty | {saved} | overwrite=True"
    refused(lambda: loaded.save_pretrained(saved, overwrite=False), said, FileExistsError)
    (tmp_path / "run").write_text("")
    said = "out | a folder to make or to resume | a file | another path"
    refused(lambda: find(out=tmp_path / "run"), said)
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "nowhere"))):
        Decomposition.from_pretrained(tmp_path / "nowhere")


FOREIGN = "no such tensor | does not go with config.json"
HALF = '{"method": "l3d", "format_version": "1.0", "n_subnetworks": 3, "threshold": 0.0,'


def cut(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])


def other_tensors(file: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    safetensors.torch.save_file(change(safetensors.torch.load_file(file)), file)


def other_config(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


TENSORS = {
    **{
        f"{keep} bytes": (
            lambda file, keep=keep: cut(file, keep),
            "a whole safetensors file |  | write it again",
        )
        for keep in (0, 4, 50, -1)
    },
    "other tensors": (
        lambda file: other_tensors(file, lambda t: {"embedding": torch.zeros(2)}),
        f"encoder.0.weight.core of shape [3, 1, 1] | {FOREIGN}",
    ),
    "no threshold": (
        lambda file: other_tensors(file, lambda t: {k: v for k, v in t.items() if "sel" not in k}),
        f"selection.threshold of shape [] | {FOREIGN}",
    ),
    "another shape": (
        lambda file: other_tensors(file, lambda t: t | {"decoder.2.bias.core": torch.zeros(3, 4)}),
        "decoder.2.bias.core of shape [3, 3] | [3, 4] | does not go with config.json",
    ),
}
CONFIGS = {
    **{
        name: (lambda file, content=content: file.write_text(content), f"{expected} | ")
        for name, content, expected in (
            ("empty", "", "a JSON file"),
            ("truncated", '{"method": "l3d", "lay', "a JSON file"),
            ("a list", "[1, 2]", "the config of a saved decomposition"),
            ("of a model", '{"architectures": ["Llama"]}', "the config of a saved decomposition"),
            ("half", HALF + '"target": {}, "layout": [{}]}', "the config of a saved decomposition"),
        )
    },
    **{
        f"without {key}": (
            lambda file, key=key: other_config(file, lambda c: {k: c[k] for k in c if k != key}),
            f"the config of a saved decomposition | ['{key}'] | save_pretrained",
        )
        for key in ("n_subnetworks", "selection", "target", "layout")
    },
    "format 1 without threshold": (
        lambda file: other_config(file, lambda c: c | {"format_version": "1.0"}),
        "the config of a saved decomposition | ['threshold'] | save_pretrained",
    ),
    "a newer format": (
        lambda file: other_config(file, lambda c: c | {"format_version": "3.0"}),
        "format_version 2.0 or 1.0 | '3.0' | Update subscape",
    ),
    "an unknown selection": (
        lambda file: other_config(file, lambda c: c | {"selection": {"kind": "top-k", "l0": 1}}),
        "selection | ['batch-top-k', 'jumprelu'] | 'top-k'",
    ),
}


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        pytest.param(file, *case, id=f"{file}, {name}")
        for file, cases in (("subnetworks.safetensors", TENSORS), ("config.json", CONFIGS))
        for name, case in cases.items()
    ],
)
def test_saved_decompositions(saved: Path, name: str, spoil: Callable, said: str):
    spoil(saved / name)
    parts = said if said.startswith("selection |") else f"{saved / name} | {said}"
    refused(lambda: Decomposition.from_pretrained(saved), parts)


def test_a_truncated_or_foreign_checkpoint(tmp_path: Path):
    def run() -> Decomposition:
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


def gradients_of_another(loaded: Decomposition) -> Tensor:
    source = GradientSource(Target(nn.Linear(4, 3)), data())
    return loaded.encode_gradients(source.gradients(source.rows(0, 4)))


LOADED: dict[str, tuple] = {
    "other values": (
        lambda loaded: loaded.verify(Target(net())),
        "target | parameter values with SHA-256 | same shapes, other values | Load the very checkpoint",
    ),
    "another model": (
        lambda loaded: loaded.verify(Target(nn.Linear(4, 5))),
        "target | the parameters ['0.weight', '0.bias', '2.weight', '2.bias']"
        " | missing ['0.bias', '0.weight', '2.bias', '2.weight'], unknown ['bias', 'weight']"
        " | Choose the same parameters",
    ),
    "inputs of another model": (
        lambda loaded: loaded.encode(net(), data()),
        "target | parameter values with SHA-256 | same shapes, other values | Load the very checkpoint",
    ),
    "other coefficients": (
        lambda loaded: loaded.decode(torch.zeros(2, 4)),
        "coefficients | one column for each of the 3 subnetworks | shape [2, 4] | Use what encode",
    ),
    "other gradients": (
        gradients_of_another,
        "gradients | rows of 43 parameters | 15 | the target this decomposition was made for",
    ),
    "an index too large": (
        lambda loaded: loaded[3],
        "index | a subnetwork from 0 to 2 | 3",
        IndexError,
    ),
    "a name": (lambda loaded: loaded["0.weight"], "index | a whole number | '0.weight'", TypeError),
    "a slice": (lambda loaded: loaded[0:2], "index | a whole number | slice", TypeError),
}


@every(LOADED)
def test_loaded_decompositions(saved: Path, call: Callable, parts: str, error: type[Exception]):
    refused(call, parts, error, Decomposition.from_pretrained(saved))
