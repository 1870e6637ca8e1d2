"""Subnetworks: selecting the active ones, the reconstruction loss, and the saved decomposition."""

from subscape.subnetworks.objective import (
    Reconstruction,
    dense_error,
    projected_error,
    reconstruct,
)
from subscape.subnetworks.selection import batch_top_k, check_active_fraction, n_active

__all__ = [
    "Reconstruction",
    "batch_top_k",
    "check_active_fraction",
    "dense_error",
    "n_active",
    "projected_error",
    "reconstruct",
]
