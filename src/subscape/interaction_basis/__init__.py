"""The Local Interaction Basis: bases, interaction graph and modules of a network (Bushnaq et al. 2024)."""

from subscape.interaction_basis.ablation import edge_curve, largest_edges, node_curve
from subscape.interaction_basis.basis import LayerBasis
from subscape.interaction_basis.bridge import Bridge, module_shares
from subscape.interaction_basis.build import Bases, BasisConfig, build_bases
from subscape.interaction_basis.chain import Chain, check_chain
from subscape.interaction_basis.cuts import chain_from
from subscape.interaction_basis.graph import InteractionGraph, build_graph
from subscape.interaction_basis.huggingface import decoder_chain
from subscape.interaction_basis.modules import Module, Modules, find_modules
from subscape.interaction_basis.required import EdgesRequired, all_edges_required, edges_required
from subscape.interaction_basis.score import (
    ACCURACY,
    CROSS_ENTROPY,
    DISTANCE,
    NEXT_TOKEN,
    Score,
    Scored,
)
from subscape.interaction_basis.sections import Affine, Mlp, sequential_chain
from subscape.interaction_basis.task import Task
from subscape.interaction_basis.weights import Weights
from subscape.interaction_basis.whole_model import model_task

__all__ = [
    "ACCURACY",
    "CROSS_ENTROPY",
    "DISTANCE",
    "NEXT_TOKEN",
    "Affine",
    "Bases",
    "BasisConfig",
    "Bridge",
    "Chain",
    "EdgesRequired",
    "InteractionGraph",
    "LayerBasis",
    "Mlp",
    "Module",
    "Modules",
    "Score",
    "Scored",
    "Task",
    "Weights",
    "all_edges_required",
    "build_bases",
    "build_graph",
    "chain_from",
    "check_chain",
    "decoder_chain",
    "edge_curve",
    "edges_required",
    "find_modules",
    "largest_edges",
    "model_task",
    "module_shares",
    "node_curve",
    "sequential_chain",
]
