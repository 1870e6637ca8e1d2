"""Why a seed fails: is it the search, or does the loss have no minimum there?

Training begins once more at the true directions, without warm-up or resampling. Where it leaves them, they are no
minimum of the loss, and no search by it can end in them; where they stay, at a lower FVU than what was found, the
search is to blame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from subscape._progress import bar
from subscape._shapes import Float
from subscape.gradients import GradientSource
from subscape.lowrank.project import project
from subscape.lowrank.stack import unit
from subscape.subnetworks.decomposition import Decomposition
from subscape.training import Trainer, TrainingConfig
from subscape.training.run import best_of, run_steps

NO_SUCH_DIRECTION = "no such direction: training leaves the truth"
LOWER_ELSEWHERE = "the loss: the truth is kept, but another minimum is lower"
SEARCH = "the search: the truth is kept, at a lower FVU"


def from_truth(
    sources: Sequence[GradientSource],
    heldout: Sequence[GradientSource],
    config: TrainingConfig,
    truths: Sequence[Float[torch.Tensor, "truth parameter"]],
) -> list[Decomposition]:
    """Train every source from its true directions, of which there are as many as subnetworks."""
    config = replace(
        config, n_restarts=1, dense_warmup=0.0, resample_every=0, consolidate=False, start="random"
    )
    trainer = Trainer(sources, config)
    directions = torch.cat(list(truths)).to(trainer.dictionary.decoder_weights)
    weights = unit(project(trainer.dictionary.layout, directions)).weights
    weights = weights.view_as(trainer.dictionary.decoder_weights)
    sides = ("dictionary.encoder_weights", "dictionary.decoder_weights")
    trainer.load_state(trainer.state() | dict.fromkeys(sides, weights))
    with bar("from the truth", progress=False) as hidden:
        run_steps(trainer, config.steps, None, hidden)
    return [best_of(trainer, index, held, {}) for index, held in enumerate(heldout)]


def verdict(fvu: float, fvu_from_truth: float, *, kept: bool) -> str:
    """In words, from the FVU that a failing seed ended with and what became of the truth."""
    if kept:
        return SEARCH if fvu_from_truth < fvu else LOWER_ELSEWHERE
    return NO_SUCH_DIRECTION
