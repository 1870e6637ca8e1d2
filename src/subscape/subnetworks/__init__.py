"""Subnetworks: the dictionary of them, its selection and loss, and the saved decomposition."""

from subscape.subnetworks.dictionary import Dictionary, Reconstruction
from subscape.subnetworks.objective import dense_error, projected_error
from subscape.subnetworks.selection import SELECTIONS, BatchTopK, JumpReLU, Selection

__all__ = [
    "SELECTIONS",
    "BatchTopK",
    "Dictionary",
    "JumpReLU",
    "Reconstruction",
    "Selection",
    "dense_error",
    "projected_error",
]
