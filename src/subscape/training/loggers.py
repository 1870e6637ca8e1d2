"""Callbacks that keep the figures of a training where their users look for them; packages are imported late."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from subscape._checks import nearest, optional, problem, require
from subscape.subnetworks.decomposition import Decomposition
from subscape.training.callbacks import Callback

FINAL = ("fvu", "l0", "dead", "fvu_row_by_row", "l0_row_by_row")
"""Figures of the result, on rows not trained on."""


def final(result: Decomposition) -> dict[str, float]:
    """Figures of the result, as they are logged."""
    return {f"heldout/{name}": float(result.metrics[name]) for name in FINAL}


class TensorBoard:
    """Writes event files into a folder, for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: str) -> None:
        optional("tensorboard", "to log for it", "tensorboard")
        module = optional("torch.utils.tensorboard", "to log for it", "tensorboard")
        self._writer: Any = module.SummaryWriter(folder)
        self._step = 0

    def on_step(self, step: int, figures: Mapping[str, float]) -> None:
        """Write a point of every curve."""
        self._step = step
        for name, value in figures.items():
            self._writer.add_scalar(f"train/{name}", value, step)
        self._writer.flush()

    def on_end(self, result: Decomposition) -> None:
        """Write the figures of the result, and close."""
        for name, value in final(result).items():
            self._writer.add_scalar(name, value, self._step)
        self._writer.close()


class Tracker:
    """Logs a run to Weights & Biases or to trackio, which has the same interface."""

    def __init__(self, package: str, project: str) -> None:
        self._package = optional(package, "to log to it", package)
        self._package.init(project=project)

    def on_step(self, step: int, figures: Mapping[str, float]) -> None:
        """Log one step."""
        self._package.log({f"train/{name}": v for name, v in figures.items()}, step=step)

    def on_end(self, result: Decomposition) -> None:
        """Log the figures of the result, and end the run."""
        self._package.log(final(result))
        self._package.finish()


class Mlflow:
    """Logs a run of an MLflow experiment, to where MLFLOW_TRACKING_URI says."""

    def __init__(self, experiment: str) -> None:
        self._package = optional("mlflow", "to log to it", "mlflow")
        self._package.set_experiment(experiment)
        self._package.start_run()

    def on_step(self, step: int, figures: Mapping[str, float]) -> None:
        """Log one step."""
        self._package.log_metrics({f"train/{k}": v for k, v in figures.items()}, step=step)

    def on_end(self, result: Decomposition) -> None:
        """Log the figures of the result, and end the run."""
        self._package.log_metrics(final(result))
        self._package.end_run()


LOGGERS: Mapping[str, Callable[[str], Callback]] = {
    "tensorboard": TensorBoard,
    "wandb": lambda project: Tracker("wandb", project),
    "trackio": lambda project: Tracker("trackio", project),
    "mlflow": Mlflow,
}


def logger_of(name: str) -> Callback:
    """A logger by `tensorboard:FOLDER`, `wandb:PROJECT`, `trackio:PROJECT` or `mlflow:EXPERIMENT`."""
    kind, _, where = name.partition(":")
    expected = f"NAME:WHERE, with one of {', '.join(LOGGERS)}"
    require(kind in LOGGERS, "log", expected, repr(name), nearest(kind, LOGGERS))
    if not where:
        raise ValueError(problem("log", expected, repr(name), "Say where, after a colon."))
    return LOGGERS[kind](where)
