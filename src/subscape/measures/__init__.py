"""Measures: one idea a file, each from tensors or a decomposition to a small result."""

from subscape.measures.mixing import MixingRecovery, mixing_recovery
from subscape.measures.oracle import Oracle, line_clusters, oracle, pca_fvu
from subscape.measures.purity import Purity, purity
from subscape.measures.recovery import Recovery, recovery

__all__ = [
    "MixingRecovery",
    "Oracle",
    "Purity",
    "Recovery",
    "line_clusters",
    "mixing_recovery",
    "oracle",
    "pca_fvu",
    "purity",
    "recovery",
]
