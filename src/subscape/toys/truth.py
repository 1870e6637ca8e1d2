"""The true subnetworks of a toy: what gradients look like when one circuit alone is at work.

t_j is the top right singular vector of the stacked row gradients of inputs in which only group j is
active, their references drawn from the toy's training distribution. It needs the target and the
divergence only, no knowledge of the architecture.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Float
from subscape.divergences import Divergence, Values, as_divergence, output_gradient
from subscape.gradients import DenseRowGradients, row_outputs, vmap_gradients
from subscape.gradients.geometry import Geometry
from subscape.references import FixedOutput
from subscape.targets import Target
from subscape.toys.toy import Toy

MatrixFunction = Callable[[Float[Tensor, "row parameter"]], Float[Tensor, " parameter"]]


@dataclass(frozen=True, repr=False)
class Truth:
    """The true subnetworks of a toy under a divergence, in float64."""

    directions: Float[Tensor, "group parameter"]
    """t_j, unit rows; target tensors flattened and concatenated in model order."""
    energy: Float[Tensor, " group"]
    """Share of Σ‖g‖² of the group's gradients that lies along t_j: 1 where a circuit is one direction."""

    def __repr__(self) -> str:
        return f"Truth({len(self.directions)} directions)"


def true_subnetworks(
    toy: Toy,
    divergence: str | Divergence | Values = "mse",
    *,
    parameters: str | list[str] = "*",
    n_samples: int = 512,
    seed: int = 0,
    direction: MatrixFunction | None = None,
    geometry: Geometry | None = None,
    reference: FixedOutput | None = None,
) -> Truth:
    """Find the true subnetworks of a toy.

    Args:
        toy: the toy.
        divergence: as for `subscape.decompose`; the true subnetworks depend on it.
        parameters: which parameters, as for `subscape.Target`.
        n_samples: inputs per group.
        seed: seed of the inputs and references.
        direction: from one group's gradients [row, parameter] to its direction; the top right singular
            vector if None.
        geometry: how rows are weighted and measured; the directions are those of gradients so measured.
        reference: one output for all rows, instead of those of other inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    directions, energies = [], []
    for group in range(toy.n_groups):
        inputs = toy.single(group, n_samples, generator)
        gradients = row_gradients(
            toy,
            inputs,
            toy.sample(n_samples, generator),
            divergence,
            parameters=parameters,
            geometry=geometry,
            reference=reference,
        )
        total = gradients.square().sum()
        require(
            bool(total > 0),
            "toy",
            "a target whose outputs depend on every group",
            f"zero gradients for group {group}",
            "Train it with more candidates.",
        )
        found = (direction or top_right_singular_vector)(gradients)
        found = found / found.norm()
        directions.append(found)
        energies.append((gradients @ found).square().sum() / total)
    return Truth(torch.stack(directions), torch.stack(energies))


def row_gradients(
    toy: Toy,
    inputs: Float[Tensor, "row feature"],
    reference_inputs: Float[Tensor, "row feature"],
    divergence: str | Divergence | Values = "mse",
    *,
    parameters: str | list[str] = "*",
    geometry: Geometry | None = None,
    reference: FixedOutput | None = None,
) -> Float[Tensor, "row parameter"]:
    """∇_W D of every input against its reference, dense and in float64.

    Args:
        toy: the toy.
        inputs: one per row.
        reference_inputs: one per row; their outputs are the references.
        divergence: as for `subscape.decompose`.
        parameters: which parameters, as for `subscape.Target`; flattened and concatenated in model order.
        geometry: how rows are weighted and measured.
        reference: one output for all rows, instead.
    """
    geometry = geometry or Geometry()
    target = Target(copy.deepcopy(toy.model).double(), parameters)
    inputs, reference_inputs = inputs.double(), reference_inputs.double()
    own = row_outputs(target, inputs, None)
    if reference is not None:
        against = reference.output.to(own).expand_as(own)
    else:
        against = row_outputs(target, reference_inputs, None)
    towards = output_gradient(as_divergence(divergence), own, against)
    by_name = vmap_gradients(target, inputs, None, geometry.of_outputs(towards))
    flat = torch.cat([g.reshape(len(g), -1) for g in by_name.values()], dim=1)
    return geometry.to(flat).of_rows(DenseRowGradients(flat, target.shapes)).flat


def top_right_singular_vector(matrix: Float[Tensor, "row column"]) -> Float[Tensor, " column"]:
    """The unit direction that holds most of the uncentred rows' energy, its largest entry positive."""
    # From the smaller Gram matrix: in float64 the squared condition does not matter for the top one.
    if matrix.shape[0] < matrix.shape[1]:
        top = torch.linalg.eigh(matrix @ matrix.mT).eigenvectors[:, -1] @ matrix
    else:
        top = torch.linalg.eigh(matrix.mT @ matrix).eigenvectors[:, -1]
    top = top / top.norm()
    return top * top[top.abs().argmax()].sign()
