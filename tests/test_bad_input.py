"""Every mistake at the public door gives one clear error.

It names the argument, says what was expected and what came, and how to repair it: each test names a
piece of all of these. Shape annotations are switched off here, as they are for users.
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


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3))


def data(n: int = 40) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0))


def complaint(
    call: Callable[[], object],
    argument: str,
    expected: str,
    got: str,
    repair: str = "",
    *,
    error: type[Exception] = ValueError,
) -> None:
    """Check that `call` raises one error whose message has all four parts in order."""
    with pytest.raises(error) as info:
        call()
    message = str(info.value)
    assert type(info.value) is error
    parts = re.fullmatch(
        r"(?s)(?P<argument>.+?): expected (?P<expected>.+?); got (?P<got>.+)", message
    )
    assert parts, message
    assert parts["argument"] == argument, message
    assert expected in parts["expected"], message
    assert got in parts["got"], message
    assert repair in parts["got"], message
    assert len(message) < 700, message


# Parameters


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("0.wieght", "Did you mean '0.weight'?"), ("0.weights", "Did you mean '0.weight'?")],
)
def test_a_glob_without_match_points_at_a_near_name(pattern: str, near: str):
    complaint(
        lambda: decompose(model(), data(), parameters=pattern, **SMALL),
        "parameters",
        "4 names of named_parameters()",
        f"{pattern!r}, which matches none",
        near,
    )


def test_a_glob_near_nothing_says_how_to_list_names():
    complaint(
        lambda: Target(model(), ["*.weight", "decoder.layers.*"]),
        "parameters",
        "patterns over the 4 names",
        "'decoder.layers.*'",
        "named_parameters()",
    )


def test_patterns_that_take_everything_away():
    complaint(
        lambda: Target(model(), ["*.weight", "!*"]),
        "parameters",
        "at least one parameter",
        "['*.weight', '!*']",
        "'!' patterns take away",
    )


def test_a_bad_regular_expression():
    complaint(
        lambda: Target(model(), "re:("),
        "parameters",
        "a regular expression after 're:'",
        "'re:('",
        "escape",
    )


def test_a_model_without_parameters():
    complaint(lambda: Target(nn.GELU()), "model", "at least one parameter", "GELU")


def test_half_of_a_tied_parameter():
    tied = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    tied["b"].weight = tied["a"].weight
    complaint(
        lambda: Target(tied, "a.*"),
        "parameters",
        "all names of a tied parameter (['a.weight', 'b.weight'] are one tensor)",
        "only ['a.weight']",
        "Add ['b.weight'], or exclude 'a.weight' with '!a.weight'.",
    )


def test_integer_parameters():
    quantised = nn.Linear(2, 2)
    quantised.codes = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
    complaint(
        lambda: Target(quantised),
        "parameters",
        "floating-point parameters",
        "['codes']",
        "Exclude them: '!codes'",
    )


@pytest.mark.parametrize(
    ("module", "name"), [(nn.Dropout(0.1), "2"), (nn.BatchNorm1d(5), "2")], ids=["dropout", "norm"]
)
def test_train_mode(module: nn.Module, name: str):
    training = nn.Sequential(nn.Linear(4, 5), nn.GELU(), module).train()
    complaint(
        lambda: decompose(training, data(), **SMALL),
        "model",
        "dropout and batch norm in eval mode",
        f"train mode in ['{name}']",
        "Call model.eval() first.",
    )


def test_batch_norm_without_running_statistics():
    mixing = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False)).eval()
    complaint(
        lambda: decompose(mixing, data(), **SMALL),
        "model",
        "batch norm with running statistics",
        "batch statistics in ['1']",
        "track_running_stats",
    )


def test_train_mode_switched_on_after_the_target_was_made():
    changing = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.1)).eval()
    target = Target(changing)
    changing.train()
    complaint(
        lambda: decompose(target, data(), **SMALL), "model", "eval mode", "train mode in ['1']"
    )


def test_dropout_that_no_module_shows():
    class Hidden(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(super().forward(x), 0.5)

    complaint(
        lambda: decompose(Hidden(4, 3), data(), **SMALL),
        "model",
        "the same outputs for the same inputs",
        "differ from one call to the next",
        "Call model.eval()",
    )


def test_random_operations_without_effect_are_refused_where_vmap_refuses_them():
    class Idle(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0 * torch.rand(1)

    complaint(
        lambda: decompose(Idle(4, 3), data(), engine="vmap", **SMALL),
        "model",
        "outputs that do not depend on chance",
        "a random operation",
        "switch its dropout off",
    )


# Outputs


def test_outputs_that_are_no_tensor():
    class Strings(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return ["no", "tensor"]

    complaint(
        lambda: decompose(Strings(4, 3), data(), **SMALL),
        "outputs",
        "a model that returns a tensor",
        "list",
        "outputs=lambda model, batch:",
        error=TypeError,
    )


@pytest.mark.parametrize(
    ("outputs", "expected", "got", "repair"),
    [
        (
            lambda m, b: m(b).sum(0),
            "one entry per sample",
            "shape [3]",
            "Do not reduce over samples",
        ),
        (lambda m, b: m(b).sum(), "one entry per sample", "shape []", "Do not reduce over samples"),
        (lambda m, b: m(b)[:, 0], "[sample, output]", "shape [2]", "[:, None]"),
        (lambda m, b: m(b) / 0, "finite values", "NaN or infinite", "Check inputs and model."),
    ],
    ids=["sum over samples", "scalar", "one number a sample", "infinite"],
)
def test_outputs_of_the_wrong_shape(outputs: Any, expected: str, got: str, repair: str):
    complaint(
        lambda: decompose(model(), data(), outputs=outputs, **SMALL),
        "outputs",
        expected,
        got,
        repair,
    )


def test_token_rows_of_a_model_without_positions():
    complaint(
        lambda: decompose(model(), data(), rows="token", **SMALL),
        "rows",
        "outputs [sample, position, output]",
        "shape [2, 3]",
        "Use rows='sample'",
    )


# Data


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (torch.zeros(0, 4), "0 samples"),
        ([], "an iterable without batches"),
        ({}, "a mapping without tensors"),
        ({"text": ["a"]}, "a mapping without tensors"),
        ({"x": torch.zeros(0, 4)}, "0 samples"),
        (TensorDataset(torch.zeros(0, 4)), "0 samples"),
    ],
    ids=["tensor", "list", "mapping", "mapping of strings", "empty column", "data set"],
)
def test_no_data(given: Any, got: str):
    complaint(
        lambda: decompose(model(), given, **SMALL),
        "data",
        "at least 2 samples",
        got,
        "Check the path",
    )


@pytest.mark.parametrize("given", ["texts.txt", Path("texts.txt"), 3, None, b"abc"], ids=repr)
def test_data_of_the_wrong_kind(given: Any):
    complaint(
        lambda: as_samples(given),
        "data",
        "a tensor, a mapping of tensors, or an iterable of batches",
        type(given).__name__,
        "text_windows",
        error=TypeError,
    )


def test_a_number_is_no_data():
    complaint(
        lambda: as_samples(torch.tensor(3.0)), "data", "samples along the first axis", "shape []"
    )
    complaint(
        lambda: as_samples({"x": torch.zeros(3), "flag": torch.tensor(1)}),
        "data",
        "samples along the first axis",
        "shape []",
    )


def test_columns_of_different_length():
    complaint(
        lambda: as_samples({"a": torch.zeros(3), "b": torch.zeros(4)}),
        "data",
        "tensors of one length",
        "{'a': 3, 'b': 4}",
        "Cut them to the same samples.",
    )


@pytest.mark.parametrize(
    "batches",
    [
        [torch.zeros(2, 4), torch.zeros(2, 5)],
        [{"a": torch.zeros(2, 4)}, {"b": torch.zeros(2, 4)}],
        [torch.zeros(2, 4), {"a": torch.zeros(2, 4)}],
    ],
    ids=["shapes", "keys", "kinds"],
)
def test_batches_that_do_not_go_together(batches: list):
    complaint(
        lambda: as_samples(batches),
        "data",
        "batches of the same tensors, equal but for their number of samples",
        "batch 1",
        "Pad or cut",
    )


def test_data_that_the_model_does_not_take():
    complaint(
        lambda: decompose(model(), torch.zeros(40, 7), **SMALL),
        "data",
        "inputs that the model takes",
        "shape [2, 7]",
        "Try model(data[:2])",
    )
    complaint(
        lambda: decompose(nn.Embedding(5, 3), torch.full((40, 2), 9), **SMALL),
        "data",
        "inputs that the model takes",
        "out of range",
        "Try model(data[:2])",
    )


def test_too_few_samples_to_hold_some_out():
    complaint(
        lambda: decompose(model(), data(3), **SMALL),
        "data",
        "at least 4 samples",
        "3",
        "Give more data, or held-out data of their own by heldout=.",
    )
    complaint(
        lambda: decompose(model(), data(), heldout=data(1), **SMALL),
        "heldout",
        "at least 2 samples",
        "1",
    )


def test_a_batch_larger_than_the_data():
    complaint(
        lambda: decompose(model(), data(40), **SMALL | {"batch_size": 37}),
        "batch_size",
        "at most the 36 samples there are",
        "37",
        "Lower it, or give more data.",
    )


def test_no_text_long_enough(tmp_path: Path):
    path = tmp_path / "short.txt"
    path.write_text("a b c<|endoftext|>d", encoding="utf-8")
    complaint(
        lambda: text_windows(path, lambda text: {"input_ids": [1, 2]}, length=16),
        "data",
        "at least one text of 16 tokens",
        "2 shorter ones",
        "Lower the window length",
    )


@pytest.mark.parametrize("length", [0, -1])
def test_windows_of_no_length(tmp_path: Path, length: int):
    path = tmp_path / "short.txt"
    path.write_text("a b c", encoding="utf-8")
    complaint(
        lambda: text_windows(path, lambda text: {"input_ids": [1, 2]}, length=length),
        "length",
        "a whole number of at least 1",
        str(length),
    )


# Divergence and reference


@pytest.mark.parametrize(
    ("divergence", "expected", "got", "repair"),
    [
        ("msee", "'mse', 'half-reference-mse', 'kl'", "'msee'", "Did you mean 'mse'?"),
        (
            lambda f, r: ((f - r) ** 2).mean(),
            "one value per row, shape [",
            "shape []",
            "flatten(1)",
        ),
        (lambda f, r: (f - r) ** 2, "one value per row, shape [", ", 3]", "flatten(1)"),
        (
            lambda f, r: (f.detach() - r).sum(1),
            "depend on the outputs",
            "without a gradient",
            "detach",
        ),
        (lambda f, r: f.argmax(1), "depend on the outputs", "without a gradient", "detach"),
        (lambda f, r: None, "one value per row", "NoneType", "flatten(1)"),
    ],
    ids=["name", "scalar", "per output", "detached", "integer", "none"],
)
@pytest.mark.parametrize("engine", ["jacobian", "vmap", "loop"])
def test_divergences(divergence: Any, expected: str, got: str, repair: str, engine: str):
    complaint(
        lambda: decompose(model(), data(), divergence=divergence, engine=engine, **SMALL),
        "divergence",
        expected,
        got,
        repair,
    )


@pytest.mark.parametrize(
    ("reference", "expected", "got", "repair"),
    [
        (
            "another_row",
            "'another-row', 'batch-mean', 'uniform'",
            "'another_row'",
            "'another-row'?",
        ),
        (
            FixedOutput(torch.zeros(1, 3)),
            "fixed output of shape [3]",
            "[1, 3]",
            "without a row axis",
        ),
        (
            Pairs(torch.zeros(40, 2)),
            "one output [3] for every sample",
            "[36, 2]",
            "order of the data",
        ),
        (Pairs(torch.zeros(39, 3)), "pairs for the 40 samples", "39 pairs", "every sample"),
        (
            lambda f, rows, g: f[:1],
            "one output per row, shape [",
            "shape [1, 3]",
            "shape of outputs",
        ),
        (lambda f, rows, g: f[:, 0], "one output per row", "shape [", "shape of outputs"),
        (lambda f, rows, g: None, "one output per row", "NoneType", "shape of outputs"),
    ],
    ids=["name", "fixed", "pairs", "too few pairs", "one row", "one output", "none"],
)
def test_references(reference: Any, expected: str, got: str, repair: str):
    complaint(
        lambda: decompose(model(), data(), reference=reference, **SMALL),
        "reference",
        expected,
        got,
        repair,
    )


def test_pairs_with_heldout_data():
    complaint(
        lambda: decompose(
            model(), data(), heldout=data(), reference=Pairs(torch.zeros(40, 3)), **SMALL
        ),
        "reference",
        "no heldout data",
        "40 pairs and heldout data",
        "as a part of data",
    )


# Gradients


@pytest.mark.parametrize("engine", ["jacobian", "vmap", "loop"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite(engine: str, bad: float):
    given = data()
    given[20:] = bad  # not among the two samples that are tried first
    complaint(
        lambda: decompose(model(), given, engine=engine, reference="uniform", **SMALL),
        "gradients",
        "finite row gradients",
        "NaN or infinite values in ['0.weight'",
        "Check the inputs",
    )


def test_a_divergence_without_a_slope_at_a_point():
    # The square root has an infinite slope at 0: rows that equal their reference.
    complaint(
        lambda: decompose(
            model(),
            torch.ones(40, 4),
            divergence=lambda f, r: (f - r).square().sum(1).sqrt(),
            **SMALL,
        ),
        "gradients",
        "finite row gradients",
        "NaN or infinite values",
        "the divergence",
    )


@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        ({}, torch.ones(40, 4)),  # every row equals its reference
        ({"outputs": lambda m, b: b * 1.0}, data()),  # outputs that do not depend on parameters
        ({"parameters": "0.weight"}, torch.zeros(40, 4)),  # a weight that only meets zeros
    ],
    ids=["equal rows", "no dependence", "zero inputs"],
)
def test_gradients_that_are_all_zero(options: dict, inputs: Tensor, tmp_path: Path):
    complaint(
        lambda: decompose(model(), inputs, out=tmp_path, **SMALL, **options),
        "gradients",
        "not all zero",
        "only zeros",
        "do not depend on the chosen parameters",
    )
    # Found before the first step.
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_diverges(tmp_path: Path):
    complaint(
        lambda: decompose(model(), data(), out=tmp_path, learning_rate=1e30, **SMALL),
        "learning_rate",
        "FVU stays finite",
        "1e+30",
        "Lower it.",
    )


# Settings


@pytest.mark.parametrize("k", [0, 0.0, -0.1, 1.5, 10, float("nan")])
def test_active_fraction(k: float):
    complaint(
        lambda: decompose(model(), data(), **SMALL | {"active_fraction": k}),
        "active_fraction",
        "a share in (0, 1]",
        repr(k),
        "0.1 keeps a tenth",
    )


@pytest.mark.parametrize(
    ("rank", "expected", "got", "repair"),
    [
        (6, "at most the dimensions [5, 4] of '0.weight'", "6", "give a fraction such as 0.1"),
        ({"0.weight": (5, 5), "*": 1}, "at most the dimensions [5, 4]", "(5, 5)", "Lower it"),
        (
            0,
            "one positive rank for each of the 2 modes of '0.weight' [5, 4]",
            "0",
            "Give an integer",
        ),
        ({"0.*": 1}, "'2.weight' among them", "['0.*']", "a last entry '*'"),
        (4.0, "a fraction in (0, 1) or an integer", "4.0", "Write 4, not 4.0."),
        ("4", "a fraction in (0, 1) or an integer", "'4'", "Write 4, not 4.0."),
    ],
    ids=str,
)
def test_ranks(rank: Any, expected: str, got: str, repair: str):
    complaint(
        lambda: decompose(model(), data(), **SMALL | {"rank": rank}), "rank", expected, got, repair
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("form", "svd", "'tucker' or 'cp'"),
        ("schedule", "linear", "'cosine', 'step' or 'constant'"),
        ("rows", "word", "'sample', 'token' or 'every-token'"),
        ("engine", "hooks", "'auto', 'jacobian', 'rule', 'replay', 'vmap' or 'loop'"),
        ("n_subnetworks", 2.5, "a whole number of at least 1"),
        ("steps", 0, "a whole number of at least 1"),
        ("batch_size", "8", "a whole number of at least 1"),
        ("checkpoint_every", 0, "a whole number of at least 1"),
        ("learning_rate", -1.0, "a positive number"),
        ("warm_start", 2.0, "a share of the steps"),
    ],
)
def test_single_settings(name: str, value: Any, expected: str):
    complaint(
        lambda: decompose(model(), data(), **SMALL | {name: value}), name, expected, repr(value)
    )


def test_an_unknown_setting():
    complaint(
        lambda: decompose(model(), data(), ranks=3, **SMALL),
        "ranks",
        "a setting",
        "an unknown one",
        "Did you mean 'rank'?",
    )


def test_a_cached_jacobian_of_token_rows():
    embedding = nn.Embedding(5, 3)
    complaint(
        lambda: GradientSource(
            Target(embedding), torch.zeros(4, 2).long(), rows="token", engine="jacobian"
        ),
        "engine",
        "'rule', 'replay', 'vmap' or 'loop' for token rows",
        "'jacobian'",
        "Use engine='auto'.",
    )


def test_models_that_vmap_cannot_follow():
    class Branching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if (x[:, 0] > 0).all() else -super().forward(x)

    complaint(
        lambda: decompose(Branching(4, 3), data(), engine="vmap", **SMALL),
        "engine",
        "a model that vmap can follow",
        "vmap",
        "Use engine='loop'",
    )
    assert len(decompose(Branching(4, 3), data(), engine="loop", **SMALL)) == 3


# Files


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return decompose(model(), data(), **SMALL).save_pretrained(tmp_path / "saved")


def test_a_folder_that_exists(saved: Path):
    loaded = Decomposition.from_pretrained(saved)
    complaint(
        lambda: loaded.save_pretrained(saved, overwrite=False),
        "path",
        "a folder that is new or empty",
        str(saved),
        "overwrite=True",
        error=FileExistsError,
    )


def test_a_file_in_place_of_the_run_folder(tmp_path: Path):
    (tmp_path / "run").write_text("")
    complaint(
        lambda: decompose(model(), data(), out=tmp_path / "run", **SMALL),
        "out",
        "a folder to make or to resume",
        "a file",
        "another path",
    )


@pytest.mark.parametrize("keep", [0, 4, 50, -1], ids=lambda n: f"{n} bytes")
def test_truncated_tensors(saved: Path, keep: int):
    file = saved / "subnetworks.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    complaint(
        lambda: Decomposition.from_pretrained(saved),
        str(file),
        "a whole safetensors file",
        "",
        "write it again",
    )


def test_foreign_tensors(saved: Path):
    file = saved / "subnetworks.safetensors"
    safetensors.torch.save_file({"embedding": torch.zeros(2)}, file)
    complaint(
        lambda: Decomposition.from_pretrained(saved),
        str(file),
        "encoder.0.weight.core of shape [3, 1, 1]",
        "no such tensor",
        "does not go with config.json",
    )


def test_tensors_of_another_shape(saved: Path):
    file = saved / "subnetworks.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["decoder.2.bias.core"] = torch.zeros(3, 4)
    safetensors.torch.save_file(tensors, file)
    complaint(
        lambda: Decomposition.from_pretrained(saved),
        str(file),
        "decoder.2.bias.core of shape [3, 3]",
        "[3, 4]",
        "does not go with config.json",
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "a JSON file"),
        ('{"method": "l3d", "lay', "a JSON file"),
        ("[1, 2]", "the config of a saved decomposition"),
        ('{"architectures": ["LlamaForCausalLM"]}', "the config of a saved decomposition"),
        (
            '{"method": "l3d", "format_version": "1.0", "n_subnetworks": 3, "threshold": 0.0,'
            ' "target": {}, "layout": [{}]}',
            "the config of a saved decomposition",
        ),
    ],
    ids=["empty", "truncated", "list", "a model's config", "half a config"],
)
def test_foreign_configs(saved: Path, content: str, expected: str):
    (saved / "config.json").write_text(content)
    complaint(
        lambda: Decomposition.from_pretrained(saved), str(saved / "config.json"), expected, ""
    )


@pytest.mark.parametrize("key", ["n_subnetworks", "threshold", "target", "layout"])
def test_a_config_that_lacks_something(saved: Path, key: str):
    config = json.loads((saved / "config.json").read_text())
    del config[key]
    (saved / "config.json").write_text(json.dumps(config))
    complaint(
        lambda: Decomposition.from_pretrained(saved),
        str(saved / "config.json"),
        "the config of a saved decomposition",
        "",
        "save_pretrained",
    )


def test_a_newer_format(saved: Path):
    config = json.loads((saved / "config.json").read_text())
    config["format_version"] = "2.0"
    (saved / "config.json").write_text(json.dumps(config))
    complaint(
        lambda: Decomposition.from_pretrained(saved),
        str(saved / "config.json"),
        "format_version 1.0",
        "'2.0'",
        "Update subscape",
    )


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "nowhere"))):
        Decomposition.from_pretrained(tmp_path / "nowhere")


def test_a_decomposition_of_another_model(saved: Path):
    loaded = Decomposition.from_pretrained(saved)
    complaint(
        lambda: loaded.verify(Target(model())),
        "target",
        "parameter values with SHA-256",
        "same shapes, other values",
        "Load the very checkpoint",
    )
    complaint(
        lambda: loaded.verify(Target(nn.Linear(4, 5))),
        "target",
        "the parameters ['0.weight', '0.bias', '2.weight', '2.bias']",
        "missing ['0.bias', '0.weight', '2.bias', '2.weight'], unknown ['bias', 'weight']",
        "Choose the same parameters",
    )


def test_a_truncated_or_foreign_checkpoint(tmp_path: Path):
    def run() -> Decomposition:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return decompose(model(), data(), out=tmp_path, **SMALL)

    run()
    file = tmp_path / "checkpoint.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    complaint(run, str(file), "a whole safetensors file", "", "write it again")
    safetensors.torch.save_file({"step": torch.tensor(3)}, file)
    complaint(run, "out", "a run folder", "which is no checkpoint", "Choose another folder.")
    file.write_bytes(whole)
    run()


def test_coefficients_of_another_decomposition(saved: Path):
    loaded = Decomposition.from_pretrained(saved)
    complaint(
        lambda: loaded.decode(torch.zeros(2, 4)),
        "coefficients",
        "one column for each of the 3 subnetworks",
        "shape [2, 4]",
        "Use what encode",
    )


def test_gradients_of_another_target(saved: Path):
    loaded = Decomposition.from_pretrained(saved)
    source = GradientSource(Target(nn.Linear(4, 3)), data())
    gradients = source.gradients(source.batch(0, 4))
    complaint(
        lambda: loaded.encode(gradients),
        "gradients",
        "rows of 43 parameters",
        "15",
        "the target this decomposition was made for",
    )


def test_indices(saved: Path):
    loaded = Decomposition.from_pretrained(saved)
    complaint(lambda: loaded[3], "index", "a subnetwork from 0 to 2", "3", error=IndexError)
    complaint(lambda: loaded["0.weight"], "index", "a whole number", "'0.weight'", error=TypeError)
    complaint(lambda: loaded[0:2], "index", "a whole number", "slice", error=TypeError)
