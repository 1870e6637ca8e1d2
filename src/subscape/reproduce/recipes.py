"""What is reproduced of arXiv 2504.00194, and with which settings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from subscape._checks import nearest, require
from subscape.gradients.geometry import RowWeight
from subscape.gradients.source import MetricName
from subscape.toys import TOYS
from subscape.training import TrainingConfig

Recipe = Literal["default", "published"]
OF_TOYS = {
    "n_features",
    "n_hidden",
    "n_outputs",
    "n_neurons",
    "probability",
    "signed",
    "correlation",
    "large_input",
}
"""Settings of toys on the command line, by the names that the functions of `TOYS` have for them."""


@dataclass(frozen=True)
class Reproduction:
    """What is reproduced, and how."""

    name: str
    """Name on the command line."""
    toy: str
    """Key of `subscape.toys.TOYS`."""
    divergence: str = "mse"
    """The divergence."""
    n_samples: int = 4_000
    """Inputs trained on."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Settings of the decomposition."""
    toy_settings: Mapping[str, Any] = field(default_factory=dict)
    """What the toy is made with, where it is not its default."""
    reference: str = "another-row"
    """What a row's output is compared with."""
    row_weight: RowWeight = "norm"
    """How much a row counts."""
    metric: MetricName = "euclidean"
    """What gradients are measured in."""
    metric_power: float = 0.5
    """Of the Kronecker metric."""
    metric_damping: float = 0.01
    """Of the Kronecker metric."""

    def of_toy(self, settings: Mapping[str, Any]) -> Reproduction:
        """The same with another toy, and as many subnetworks as before per feature."""
        if not settings:
            return self
        known = inspect.signature(TOYS[self.toy]).parameters
        for name in settings:
            require(
                name in known,
                name,
                "a setting of the toy",
                f"{name}, which {self.name} does not have",
                f"Leave it out: {self.name} has {', '.join(sorted(OF_TOYS & known.keys()))}.",
            )
        features: int = known["n_features"].default
        n = self.training.n_subnetworks * settings.get("n_features", features) // features
        training = replace(self.training, n_subnetworks=n)
        return replace(self, training=training, toy_settings=settings)


DEFAULT = TrainingConfig(
    rank=1, steps=5_000, batch_size=128, learning_rate=0.01, schedule="cosine", resample_every=200
)
PUBLISHED = {
    "steps": 32_000,
    "batch_size": 32,
    "learning_rate": 0.01,
    "schedule": "step",
    "decay_every": 3_200,
}
"""1,000 samples, batches of 32, 1,000 epochs, ×0.8 every 100 epochs (arXiv 2504.00194, sec. 4.1).

The dense warm-up is in the authors' code only; resampling is ours (`--resample-every 0` leaves it out)."""
PUBLISHED_SAMPLES = 1_000


def _of(
    name: str, n_subnetworks: int, rank: int = 1, *, toy: str = "", divergence: str = "mse"
) -> Reproduction:
    training = replace(DEFAULT, n_subnetworks=n_subnetworks, rank=rank)
    return Reproduction(name, toy or name, divergence, training=training)


REPRODUCTIONS = {
    r.name: r
    for r in (
        _of("tms", 5),
        _of("tms-parallel", 15),
        _of("tms-40-10", 40),
        _of("tms-identity", 5),
        _of("tmcs", 10),
        _of("high-rank", 10, 3),
        _of("squared", 10, 2, toy="squared-code", divergence="half-reference-mse"),
        _of("squared-paper", 10, 2, toy="squared", divergence="half-reference-mse"),
        _of("squared-published", 5, 2, divergence="half-reference-mse"),
        _of("superposed", 42),
    )
}


def reproduction(name: str, recipe: Recipe = "default") -> Reproduction:
    """The settings of a named reproduction: ours, or with the paper's samples, batch, steps and schedule."""
    known = list(REPRODUCTIONS)
    require(name in known, "name", f"one of {known}", repr(name), nearest(name, known))
    ours = REPRODUCTIONS[name]
    if recipe == "default":
        return ours
    return replace(ours, training=replace(ours.training, **PUBLISHED), n_samples=PUBLISHED_SAMPLES)
