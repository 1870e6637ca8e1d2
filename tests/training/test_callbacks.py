"""What callbacks are told, and the loggers: TensorBoard really, the others by stand-ins."""

import sys
import types

import pytest
import torch
from torch import nn

from subscape import decompose
from subscape.cli.decompose import parsed
from subscape.training.loggers import FINAL, logger_of

FEW = dict(steps=6, log_every=2, batch_size=16, n_subnetworks=3, l0=1.0, rank=1, n_heldout_rows=20)


class Kept:
    def __init__(self):
        self.steps, self.results = [], []

    def on_step(self, step, figures):
        self.steps.append((step, dict(figures)))

    def on_end(self, result):
        self.results.append(result)


@pytest.fixture
def found(unchecked):
    """Runs a small decomposition with callbacks."""

    def run(*callbacks, **more):
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval()
        data = torch.randn(100, 4)
        return decompose(model, data, callbacks=callbacks, progress=False, **FEW | more)

    return run


def test_callbacks_are_told_what_the_run_folder_keeps(found, tmp_path):
    import json

    kept = Kept()
    result = found(kept, out=tmp_path / "run", n_restarts=3)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [step for step, _ in kept.steps] == [2, 4, 6] == [line["step"] for line in lines]
    for (_, figures), line in zip(kept.steps, lines, strict=True):
        best = line["fvu"].index(min(line["fvu"]))
        names = ("fvu", "l0", "silent")
        assert figures == {name: line[name][best] for name in names}
    assert [r.metrics["fvu"] for r in kept.results] == [result.metrics["fvu"]]
    # Nothing is left of them for the next run, which has no folder.
    again = Kept()
    found(again)
    assert len(kept.steps) == len(again.steps) == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_logged(found, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kept = Kept()
    result = found(kept, logger_of(f"tensorboard:{tmp_path}/logs"))
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    curve = [(e.step, e.value) for e in events.Scalars("train/fvu")]
    assert curve == [(step, pytest.approx(figures["fvu"])) for step, figures in kept.steps]
    (last,) = events.Scalars("heldout/fvu")
    assert last.step == 6 and last.value == pytest.approx(result.metrics["fvu"])


class StandIn(types.ModuleType):
    """Keeps what it is called with."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **named: self.calls.append((name, args, named))


@pytest.mark.parametrize(
    ("package", "first", "log", "last"),
    [
        ("wandb", [("init", (), {"project": "mine"})], "log", "finish"),
        ("trackio", [("init", (), {"project": "mine"})], "log", "finish"),
        (
            "mlflow",
            [("set_experiment", ("mine",), {}), ("start_run", (), {})],
            "log_metrics",
            "end_run",
        ),
    ],
)
def test_trackers(found, monkeypatch, package, first, log, last):
    with pytest.raises(ImportError, match=f"^{package}: expected to be installed"):
        logger_of(f"{package}:mine")
    stand_in = StandIn(package)
    monkeypatch.setitem(sys.modules, package, stand_in)
    result = found(logger_of(f"{package}:mine"))
    calls = stand_in.calls
    assert calls[: len(first)] == first and calls[-1] == (last, (), {})
    logged = calls[len(first) : -1]
    assert [name for name, *_ in logged] == [log] * 4
    assert [named for *_, named in logged] == [{"step": 2}, {"step": 4}, {"step": 6}, {}]
    assert set(logged[0][1][0]) == {"train/fvu", "train/l0", "train/silent"}
    assert logged[-1][1][0] == {f"heldout/{name}": result.metrics[name] for name in FINAL}


@pytest.mark.parametrize("name", ["tensorboard", "tensorbord:x", "wandb:"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="log: expected NAME:WHERE"):
        logger_of(name)


def test_the_command_takes_several():
    settings = parsed(["MODEL", "--data", "x.npy", "--log", "tensorboard:a", "wandb:b"])
    assert settings.log == ("tensorboard:a", "wandb:b")
