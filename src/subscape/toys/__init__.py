"""Toy targets whose true subnetworks are known."""

from collections.abc import Callable, Sequence
from functools import partial

from subscape.toys.high_rank import high_rank, high_rank_many
from subscape.toys.inputs import SparseInputs
from subscape.toys.squared import squared, squared_many
from subscape.toys.tmcs import tmcs, tmcs_many
from subscape.toys.tms import LARGE_TRAINING, tms, tms_many
from subscape.toys.tms_identity import tms_identity, tms_identity_many
from subscape.toys.tms_parallel import tms_parallel, tms_parallel_many
from subscape.toys.toy import Toy
from subscape.toys.training import ToyTraining
from subscape.toys.truth import Truth, row_gradients, true_subnetworks

TOYS: dict[str, Callable[[Sequence[int]], list[Toy]]] = {
    "tms": tms_many,
    "tms-parallel": tms_parallel_many,
    "tms-40-10": partial(tms_many, n_features=40, n_hidden=10, training=LARGE_TRAINING),
    "tms-identity": tms_identity_many,
    "tms-identity-40-10": partial(
        tms_identity_many, n_features=40, n_hidden=10, training=LARGE_TRAINING
    ),
    "tmcs": tmcs_many,
    "high-rank": high_rank_many,
    "squared": squared_many,
    "squared-code": partial(squared_many, variant="code"),
}
"""By the name the command line knows them, functions from seeds to one trained toy per seed."""

__all__ = [
    "TOYS",
    "SparseInputs",
    "Toy",
    "ToyTraining",
    "Truth",
    "high_rank",
    "high_rank_many",
    "row_gradients",
    "squared",
    "squared_many",
    "tmcs",
    "tmcs_many",
    "tms",
    "tms_identity",
    "tms_identity_many",
    "tms_many",
    "tms_parallel",
    "tms_parallel_many",
    "true_subnetworks",
]
