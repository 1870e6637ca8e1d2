"""What a toy is: a trained target together with the distribution whose circuits are known."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor, nn

from subscape._shapes import Bool, Float
from subscape.toys.inputs import SparseInputs


@dataclass(frozen=True, repr=False)
class Toy:
    """A trained target model whose circuits are known: one for each group of inputs."""

    name: str
    """Kind and sizes, as `tms-5-2`."""
    seed: int
    """The seed all of its chance came from."""
    model: nn.Module
    """The trained target, in eval mode, parameters not frozen."""
    inputs: SparseInputs
    """The distribution it was trained on."""
    final_loss: float
    """Mean squared error on fresh inputs."""
    single_loss: Float[Tensor, " group"]
    """Squared error on inputs of one group alone, over that of predicting zero."""
    represented: Bool[Tensor, " group"]
    """Whether the target computes a group: `single_loss` at most `REPRESENTED_SHARE`."""
    mixing: Float[Tensor, "output feature"] | None = None
    """A of a target trained on X -> AX, output by input; None for others."""
    positive_only: bool = False
    """Whether negative inputs have no circuit, as where the right output is the positive part."""

    circuits: Float[Tensor, "group parameter"] | None = None
    """What of the weights each circuit is, target tensors flattened in model order; None where the target was
    trained and not written as their sum."""

    def __repr__(self) -> str:
        n = int(self.represented.sum())
        return f"Toy({self.name}, seed {self.seed}: computes {n} of {self.n_groups} groups)"

    @property
    def has_two_signs(self) -> bool:
        """Whether positive and negative inputs have a circuit each."""
        return self.inputs.low < 0 and not self.positive_only

    @property
    def n_groups(self) -> int:
        """Number of groups, hence of true subnetworks."""
        return self.inputs.n_groups

    @property
    def n_inputs(self) -> int:
        """Length of an input."""
        return self.inputs.n_features

    @property
    def all_represented(self) -> bool:
        """Whether the target computes every group."""
        return bool(self.represented.all())

    def sample(self, n: int, generator: Generator) -> Float[Tensor, "row feature"]:
        """Draw inputs of the training distribution, none of them all zero."""
        return self.inputs.sample(n, generator)

    def single(self, group: int, n: int, generator: Generator) -> Float[Tensor, "row feature"]:
        """Draw inputs in which one group alone is active."""
        return self.inputs.single(group, n, generator)
