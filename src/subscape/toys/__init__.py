"""Toy targets whose true subnetworks are known."""

from collections.abc import Callable
from functools import partial
from typing import Any

from subscape.toys._mixing import high_rank, tmcs
from subscape.toys._squared import squared
from subscape.toys._tms import LARGE_TRAINING, tms, tms_identity, tms_parallel
from subscape.toys.inputs import SparseInputs
from subscape.toys.superposition import superposed
from subscape.toys.toy import Toy
from subscape.toys.training import ToyTraining
from subscape.toys.truth import Truth, row_gradients, true_subnetworks

_LARGE: dict[str, Any] = {"n_features": 40, "n_hidden": 10, "training": LARGE_TRAINING}

TOYS: dict[str, Callable[..., list[Toy]]] = {
    "tms": tms.many,
    "tms-parallel": tms_parallel.many,
    "tms-40-10": partial(tms.many, **_LARGE),
    "tms-identity": tms_identity.many,
    "tms-identity-40-10": partial(tms_identity.many, **_LARGE),
    "tmcs": tmcs.many,
    "high-rank": high_rank.many,
    "squared": squared.many,
    "squared-code": partial(squared.many, variant="code"),
    "squared-published": partial(squared.many, variant="published"),
    "superposed": superposed.many,
}
"""By the name the command line knows them, functions from seeds to one toy per seed."""

__all__ = [
    "TOYS",
    "SparseInputs",
    "Toy",
    "ToyTraining",
    "Truth",
    "high_rank",
    "row_gradients",
    "squared",
    "superposed",
    "tmcs",
    "tms",
    "tms_identity",
    "tms_parallel",
    "true_subnetworks",
]
