"""TMS in parallel: copies of one toy model of superposition as the blocks of one dense network.

Block-diagonal W_in and W_out, all entries decomposed (arXiv 2504.00194, sec. 4.1.1; as in the authors'
code all blocks are the same trained model). One circuit per feature of every copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from subscape.toys._tms import DEFAULT_TRAINING, tms, tms_recipe
from subscape.toys.recipe import measure
from subscape.toys.toy import Toy
from subscape.toys.training import Maker, ToyTraining


@Maker
def tms_parallel(
    seeds: Sequence[int],
    n_features: int = 5,
    n_hidden: int = 2,
    n_copies: int = 3,
    *,
    probability: float = 0.05,
    training: ToyTraining = DEFAULT_TRAINING,
) -> list[Toy]:
    """Train one toy model of superposition per seed and set copies of it side by side.

    Args:
        seeds: one per toy.
        n_features: features of one copy.
        n_hidden: width of the bottleneck of one copy.
        n_copies: number of copies.
        probability: probability that a feature is active.
        training: how to train; the best of its candidates is kept per seed.

    Returns:
        The toys.
    """
    blocks = tms.many(seeds, n_features, n_hidden, probability=probability, training=training)
    return [_parallel(block, n_hidden, n_copies) for block in blocks]


def _parallel(block: Toy, n_hidden: int, n_copies: int) -> Toy:
    recipe = tms_recipe(block.n_inputs * n_copies, n_hidden * n_copies, block.inputs.probability)
    whole = {}
    for name, parameter in block.model.named_parameters():
        copies = [parameter.detach()] * n_copies
        whole[name] = torch.cat(copies) if parameter.dim() == 1 else torch.block_diag(*copies)
    recipe.model.load_state_dict(whole)
    generator = torch.Generator().manual_seed(block.seed)
    with torch.no_grad():
        measured = measure(recipe, {k: v[None] for k, v in whole.items()}, None, generator)
    return Toy(
        f"tms-parallel-{n_copies}x{block.n_inputs}-{n_hidden}",
        block.seed,
        recipe.model.eval(),
        recipe.inputs,
        float(measured.loss[0]),
        measured.single_loss[0],
        measured.represented[0],
    )
