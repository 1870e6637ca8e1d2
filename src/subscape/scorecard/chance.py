"""Random directions that take the place of subnetworks, to read rows by and to push."""

from __future__ import annotations

import copy
from dataclasses import replace

from subscape.measures.control import random_like
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.dictionary import Dictionary


def chance_of(decomposition: Decomposition, seed: int = 0) -> Decomposition:
    """Random directions to push, of the same norms and ranks, that rows are read by as well."""
    control, metric = random_like(decomposition.directions, seed), decomposition.geometry.metric
    inside = control if metric is None else metric.to_gradients(control)
    # A selection of groups follows its decoder: the subnetworks' own stays as it is.
    selection = copy.deepcopy(decomposition.dictionary.selection)
    dictionary = Dictionary(inside, inside, selection)
    return replace(decomposition, dictionary=dictionary.requires_grad_(False))
