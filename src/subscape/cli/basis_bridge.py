"""Pushes along the subnetworks of a decomposition, and controls, for the modules of a basis run."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subscape._checks import problem
from subscape._io import write_json
from subscape.cli.run_folder import Run
from subscape.gradients.source import GradientSource
from subscape.interaction_basis.bridge import Push, module_shares
from subscape.interaction_basis.stages import load_graphs, load_modules, own
from subscape.interaction_basis.task import Task
from subscape.lowrank import Stack
from subscape.measures.control import random_like

N_INPUTS = 256
"""Samples over which energies are averaged, and of whose rows the principal directions are taken."""
FILE = "bridge.json"


def bridge_stage(task: Task, folder: Path, run: Run, *, progress: bool = False) -> dict[str, Any]:
    """Measure through which LIB modules the subnetworks of a run act: what is in bridge.json."""
    if task.weights is None:
        raise ValueError(
            problem(
                "config_or_run",
                "a task that can change its weights",
                "one without `weights`",
                "Give the task its `weights`, a Weights(tensors, chain_of).",
            )
        )
    graph, modules = load_graphs(folder)["lib"], load_modules(folder)["lib"]
    inputs = task.inputs[:N_INPUTS]
    directions = run.decomposition.directions
    pushes = {"subnetworks": pushes_of(directions), "random": pushes_of(random_like(directions))}
    source = run.decomposition.source(run.target(), inputs)
    pushes["principal"] = principal_pushes(source, len(run.decomposition))
    found = module_shares(task.weights, graph, modules, pushes, inputs, progress=progress)
    result = {
        "subnetworks": str(run.folder),
        "mean_largest": {kind: found.mean_largest(kind) for kind in pushes},
        "shares": {kind: shares.tolist() for kind, shares in found.shares.items()},
        "modules": [list(map(list, m.members)) for m in modules.modules],
    }
    with own(folder):
        write_json(folder / FILE, result)
    return result


def pushes_of(directions: Stack) -> list[Push]:
    """Every direction as dense tensors by name."""
    return [directions.select(n).dense() for n in range(directions.weights.shape[0])]


def principal_pushes(source: GradientSource, n: int) -> list[Push]:
    """The first principal directions of row gradients, uncentred."""
    gradients = source.gradients(source.rows_of(torch.arange(len(source))))
    values, vectors = torch.linalg.eigh(gradients.gram().double())
    n = min(n, int((values > 1e-6 * values[-1]).sum()))
    first = (vectors[:, -n:] / values[-n:].sqrt()).flip(1)
    return [_by_name(row, source) for row in gradients.combined(first.mT.to(gradients.sum()))]


def _by_name(flat: Tensor, source: GradientSource) -> Push:
    pieces = flat.split([prod(shape) for shape in source.shapes.values()])
    return {
        name: piece.reshape(shape)
        for (name, shape), piece in zip(source.shapes.items(), pieces, strict=True)
    }
