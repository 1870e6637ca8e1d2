"""Planted rules, as all experiments on them share them: found or not, and how well codes tell their rows."""

from pathlib import Path
from typing import Any

import torch
from geometry_measures import (
    FOUND,
    MLP,
    Text,
    coefficients,
    decomposed,
    plants_of,
    reachable,
)
from page import Record
from torch import Tensor, nn

from subscape import Decomposition, GradientSource
from subscape.measures import auroc
from subscape.measures.recovery import absolute_cosines
from subscape.planted import Mixture, Planted, mixture

OPTIONS: dict[str, Any] = {
    "parameters": MLP,
    "n_subnetworks": 60,
    "l0": 6.0,
    "rank": 0.1,
    "batch_size": 256,
    "learning_rate": 0.006,
}
N_WINDOWS = 1_000


class Bed:
    """A model with one set of rules, and text with their triggers in it."""

    def __init__(self, folder: Path, text: Text, number: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.planted: Planted = plants_of(folder, text, number)
        self.trained, self.held = (
            mixture(ids, self.planted.triggers, seed=number)
            for ids in (text.trained, text.held[:4000])
        )
        self.reach: Tensor = reachable(self.planted, self.held)

    def decomposed(
        self, folder: Path, seed: int, model: nn.Module | None = None, **options: Any
    ) -> Decomposition:
        """The planted model, or another, decomposed blindly on this text; from the folder if it is there."""
        ids = self.trained.ids, self.held.ids
        return decomposed(folder, model or self.planted.model, *ids, seed, OPTIONS | options)[0]

    def judged(self, result: Decomposition, source: GradientSource) -> Record:
        """How many rules are met by a direction at 0.8 of what their own gradients reach, and by which."""
        cosines = absolute_cosines(self.planted.directions(), result.directions.flat())
        best = cosines.max(1)
        windows = torch.arange(min(N_WINDOWS, len(self.held.ids)))
        sizes, _ = coefficients(result, source, windows)
        labels = self.held.labels[windows].flatten()
        return {
            "found": int((best.values >= FOUND * self.reach).sum()),
            "cosines": best.values.tolist(),
            "reach": self.reach.tolist(),
            "subnetworks": best.indices.tolist(),
            "aurocs": told_apart(sizes, labels, len(self.reach)),
            "fvu": result.metrics["fvu"],
        }


def told_apart(sizes: Tensor, labels: Tensor, n_rules: int) -> list[float]:
    """AUROC of the best code for the rows of every rule, against a quarter of the others."""
    return [
        max(auroc(size[labels == rule], size[labels != rule][::4]) for size in sizes.mT)
        for rule in range(n_rules)
        if (labels == rule).any()
    ]


__all__ = ["OPTIONS", "Bed", "Mixture", "told_apart"]
