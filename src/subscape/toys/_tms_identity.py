"""TMS with a hidden identity layer: x -> ReLU(W_out W_hidden W_in x + b), W_hidden the identity.

W_hidden stays at the identity in training and is decomposed with the rest, as in APD and SPD. It serves
every feature alike, so features share it.
"""

from __future__ import annotations

from collections.abc import Sequence

from subscape.toys._tms import DEFAULT_TRAINING, tms_recipe
from subscape.toys.toy import Toy
from subscape.toys.training import Maker, ToyTraining, train_many


@Maker
def tms_identity(
    seeds: Sequence[int],
    n_features: int = 5,
    n_hidden: int = 2,
    *,
    probability: float = 0.05,
    training: ToyTraining = DEFAULT_TRAINING,
) -> list[Toy]:
    """Train one TMS with a hidden identity layer per seed, side by side.

    Args:
        seeds: one per toy.
        n_features: number of features.
        n_hidden: width of the bottleneck and of W_hidden.
        probability: probability that a feature is active.
        training: how to train; the best of its candidates is kept per seed.

    Returns:
        The toys.
    """
    recipe = tms_recipe(n_features, n_hidden, probability, hidden_layer=True)
    return train_many(recipe, seeds, training)
