"""One subnetwork, as `decomposition[3]` gives it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from subscape._checks import problem
from subscape._html import table
from subscape._shapes import Float
from subscape.lowrank import Stack


@dataclass(frozen=True, repr=False)
class Subnetwork:
    """One subnetwork: a unit direction v_k in parameter space, in low-rank form."""

    index: int
    """Its place in the decomposition."""
    stack: Stack
    """The direction, without leading axes."""

    def __getitem__(self, name: str) -> Float[Tensor, "..."]:
        """The dense part of the direction in one target parameter."""
        dense = self.dense()
        if name not in dense:
            raise KeyError(
                problem("name", f"a target parameter, one of {list(dense)}", repr(name), "")
            )
        return dense[name]

    def dense(self) -> dict[str, Float[Tensor, "..."]]:
        """The direction as full tensors by parameter name."""
        return self.stack.dense()

    def __repr__(self) -> str:
        norms = self.norms()
        main = max(norms, key=lambda name: norms[name])
        return f"Subnetwork({self.index}: {norms[main] ** 2:.0%} of its squared norm in {main})"

    def _repr_html_(self) -> str:
        shapes = {t.name: t.shape for t in self.stack.layout.tensors}
        rows = [
            (n, " × ".join(map(str, shapes[n])), f"{x**2:.1%}") for n, x in self.norms().items()
        ]
        return table(repr(self), ("tensor", "shape", "share of squared norm"), rows)

    def norms(self) -> dict[str, float]:
        """L2 norm of the direction in every tensor; their squares sum to 1."""
        return dict(zip(self.stack.layout.names, self.stack.norms().tolist(), strict=True))
