"""High-rank circuits: X -> AX with 25 inputs in five groups of five that are active together.

A circuit serves a whole group, so it has rank five in every matrix (arXiv 2504.00194, sec. 4.1.3; the
authors' script has 30 inputs).
"""

from __future__ import annotations

from collections.abc import Sequence

from subscape.toys._tmcs import mixing_recipe
from subscape.toys.inputs import SparseInputs
from subscape.toys.toy import Toy
from subscape.toys.training import Maker, ToyTraining, train_many

DEFAULT_TRAINING = ToyTraining(n_steps=3000, learning_rate=0.03, n_candidates=2)


@Maker
def high_rank(
    seeds: Sequence[int],
    n_features: int = 25,
    n_hidden: int = 10,
    group_size: int = 5,
    *,
    probability: float = 0.05,
    training: ToyTraining = DEFAULT_TRAINING,
) -> list[Toy]:
    """Train one target with high-rank circuits per seed, side by side.

    Args:
        seeds: one per toy; each has its own A, in `Toy.mixing`.
        n_features: number of features and of outputs.
        n_hidden: width of the bottleneck.
        group_size: features that are active together.
        probability: probability that a group is active.
        training: how to train; the best of its candidates is kept per seed.

    Returns:
        The toys.
    """
    inputs = SparseInputs(n_features, group_size, probability)
    return train_many(mixing_recipe("high-rank", inputs, n_hidden), seeds, training)
