"""Many blocks in one pass over the data: each as it would be alone, for one forward pass of the model."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from subscape import Decomposition, decompose, decompose_blocks
from subscape.gradients.blocks import modules_matched
from subscape.training import together
from subscape.training.blocks import prepare_blocks

pytestmark = pytest.mark.usefixtures("unchecked")

SETTINGS = {
    "n_subnetworks": 6,
    "rank": 1,
    "l0": 2.0,
    "steps": 12,
    "batch_size": 32,
    "resample_every": 5,
    "start": "random",
    "n_heldout_rows": 40,
    "progress": False,
}


class Counting(nn.Module):
    """Two blocks and a head, which count how often they are called."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 5))
        self.head = nn.Linear(5, 4)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.head(self.second(torch.tanh(self.first(x))))


@pytest.fixture
def model():
    return Counting().double()


@pytest.fixture
def data():
    return torch.randn(200, 6, dtype=torch.float64)


def assert_same(found, alone, tolerance=1e-10):
    for side in ("encoder", "decoder"):
        mine, theirs = getattr(found, side).weights, getattr(alone, side).weights
        assert torch.allclose(mine, theirs, rtol=0, atol=tolerance)
    assert torch.allclose(found.threshold, alone.threshold, rtol=0, atol=tolerance)
    for key in ("fvu", "fvu_row_by_row", "l0", "dead"):
        assert found.metrics[key] == pytest.approx(alone.metrics[key], abs=tolerance)
    assert found.target == alone.target
    assert found.settings == alone.settings
    theirs = alone.geometry.state()
    for name, values in found.geometry.state().items():
        assert torch.allclose(values, theirs[name], rtol=tolerance, atol=0), name


@pytest.mark.parametrize(
    "options",
    [
        {"start": "clusters"},
        {"engine": "rule"},
        {"engine": "loop"},
        {"recipe": "published"},
        {"row_weight": "output", "metric": "euclidean"},
        {"micro_batch_size": 16, "engine": "rule", "reference": "another-row"},
        {"micro_batch_size": 8, "engine": "rule", "selection": "jumprelu"},
        {"n_restarts": 2, "group_size": 2, "engine": "rule"},
        {"consolidate": True, "engine": "rule"},
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()),
)
@pytest.mark.filterwarnings("ignore:Row gradients of")
def test_each_block_comes_out_as_it_does_alone(model, data, options):
    found = decompose_blocks(model, data, blocks=["first", "second"], **SETTINGS | options)
    assert list(found) == ["first", "second"]
    for name, one in found.items():
        assert_same(one, decompose(model, data, parameters=name, **SETTINGS | options))
    parameters = {name for one in found.values() for name in one.layout.names}
    assert parameters == {n for n, _ in model.named_parameters() if not n.startswith("head")}


@pytest.mark.parametrize("micro_batch_size", [None, 8])
def test_one_forward_pass_a_batch_serves_all_blocks(model, data, micro_batch_size):
    options = SETTINGS | {"engine": "rule", "micro_batch_size": micro_batch_size}
    calls = {}
    for blocks in (["first"], ["first", "second"]):
        model.calls = 0
        # Without what looks for new directions, which each block does for itself.
        some: Any = options | {"resample_every": 0}
        decompose_blocks(model, data, blocks=blocks, **some)
        calls[len(blocks)] = model.calls
    assert calls[2] == calls[1]


def test_the_metric_too_is_estimated_for_all_blocks_at_once(model, data):
    calls = {}
    for blocks in ("first", ["first", "second"]):
        model.calls = 0
        prepare_blocks(model, data, blocks=blocks, engine="rule", n_subnetworks=2)
        calls[len(calls)] = model.calls
    assert calls[0] == calls[1]


def test_a_stopped_run_goes_on_where_each_block_was(model, data, tmp_path, monkeypatch):
    every = {"checkpoint_every": 5, "log_every": 5, "steps": 30}
    options: Any = {"blocks": ["first", "second"]} | SETTINGS | every
    whole = decompose_blocks(model, data, **options)
    right = together.record

    def stop(trainer, batch, folder):
        if trainer.step_number == 15 and "second" in str(folder):
            raise KeyboardInterrupt  # the first block is at 15 then, the second at 10
        return right(trainer, batch, folder)

    with monkeypatch.context() as patch:
        patch.setattr(together, "record", stop)
        with pytest.raises(KeyboardInterrupt):
            decompose_blocks(model, data, out=tmp_path / "run", **options)
    resumed = decompose_blocks(model, data, out=tmp_path / "run", **options)
    for name, one in resumed.items():
        assert_same(one, whole[name])
        folder = tmp_path / "run" / "blocks" / name
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30]
        saved = Decomposition.from_pretrained(folder / "final")
        assert torch.equal(saved.decoder.weights, one.decoder.weights)
    overview = json.loads((tmp_path / "run" / "blocks.json").read_text())
    assert overview["second"] == {
        "fvu": whole["second"].metrics["fvu"],
        "l0": whole["second"].metrics["l0"],
        "dead": whole["second"].metrics["dead"],
        "subnetworks": 6,
        "parameters": 8 * 8 + 8 + 8 * 5 + 5,
    }


def test_globs_take_the_outermost_modules(model):
    assert modules_matched(model, ["*"]) == ["first", "second", "head"]
    assert modules_matched(model, ["second*", "head"]) == ["second", "head"]
    assert modules_matched(model, ["*", "!second"]) == ["first", "head"]
    assert modules_matched(model, ["*", "!second.0", "!*t"]) == ["second", "head"]
    assert modules_matched(model, ["!head", "*"]) == ["first", "second"]


def test_a_glob_that_matches_nothing_is_refused(model, data):
    with pytest.raises(ValueError, match=r"'frist', which matches none. Did you mean 'first'\?"):
        decompose_blocks(model, data, blocks="frist")
    with pytest.raises(ValueError, match="globs that leave a module"):
        decompose_blocks(model, data, blocks=["first", "!first"])


def test_a_block_that_no_output_depends_on_is_named(model, data):
    with torch.no_grad():
        model.second[2].weight.zero_()
        model.head.weight.zero_()
    with pytest.raises(ValueError, match="'second', whose row gradients are all zero"):
        decompose_blocks(model, data, blocks=["head", "second"], **SETTINGS)


def test_a_parameter_of_two_blocks_is_refused(model, data):
    model.head.weight = nn.Parameter(torch.randn(4, 5).double())
    model.other = nn.Linear(5, 4).double()
    model.other.weight = model.head.weight
    with pytest.raises(ValueError, match="all names of a tied parameter"):
        decompose_blocks(model, data, blocks=["head", "other"], **SETTINGS)


def test_blocks_of_a_language_model_come_out_as_alone(data_dir):
    transformers = pytest.importorskip("transformers")
    from subscape import text_windows

    folder = data_dir / "stories260k"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    windows = text_windows(data_dir / "tinystories" / "heldout_sample.txt", tokenizer, length=16)
    few = {name: values[:24] for name, values in windows.items()}
    options = SETTINGS | {
        "rows": "token",
        "divergence": "kl",
        "batch_size": 64,
        "n_heldout_rows": 64,
        "steps": 4,
        "n_subnetworks": 4,
    }
    blocks = ["model.layers.1.mlp", "model.layers.3.self_attn"]
    found = decompose_blocks(model.double(), few, blocks=blocks, **options)
    for name, one in found.items():
        assert_same(one, decompose(model, few, parameters=name, **options), 1e-8)
