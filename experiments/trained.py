"""Training side by side from given directions, and row gradients that are given and not made."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from subscape import Decomposition, GradientSource, Target, TrainingConfig
from subscape.lowrank.project import project
from subscape.lowrank.stack import unit
from subscape.training import Trainer
from subscape.training.run import best_of, run_steps


def trained(
    sources: Sequence[GradientSource],
    held: Sequence[GradientSource],
    config: TrainingConfig,
    starts: Sequence[Tensor] | None = None,
) -> list[Decomposition]:
    """One decomposition for each source; all restarts of one begin at its `starts`, [direction, parameter]."""
    trainer = Trainer(sources, config)
    if starts is not None:
        dictionary = trainer.dictionary
        directions = torch.stack(list(starts)).to(dictionary.decoder_weights)
        weights = unit(project(dictionary.layout, directions.flatten(0, 1))).weights
        weights = weights.unflatten(0, (len(directions), 1, -1))
        with torch.no_grad():
            dictionary.decoder_weights.copy_(weights.expand_as(dictionary.decoder_weights))
            dictionary.encoder_weights.copy_(dictionary.decoder_weights)
    run_steps(trainer, config.steps, None, _Silent())
    return [best_of(trainer, index, source, {}) for index, source in enumerate(held)]


class _Silent:
    """In the place of a progress bar."""

    def update(self) -> None: ...
    def set_postfix(self, **_: Any) -> None: ...


class Rows(nn.Module):
    """⟨x, W⟩: its gradient with respect to W is its input, so rows may be anything."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.tensors = nn.ParameterDict({k: torch.zeros(shape) for k, shape in shapes.items()})

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split([prod(p.shape) for p in self.tensors.values()], dim=-1)
        each = zip(parts, self.tensors.values(), strict=True)
        return sum((part @ p.flatten() for part, p in each), torch.zeros(()))[:, None]


def output(outputs: Tensor, reference: Tensor) -> Tensor:
    """A divergence whose derivative by the output is 1."""
    return outputs[:, 0]


def source_of(
    rows: Tensor, shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0
) -> GradientSource:
    """A source whose row gradients are these rows, [row, parameter]."""
    target = Target(Rows(shapes))
    return GradientSource(
        target, rows, divergence=output, reference="uniform", engine="jacobian", seed=seed
    )
