"""The Jacobian step of sections whose Jacobian is known: no backward pass, one matrix product a batch."""

from __future__ import annotations

from torch import Tensor

from subscape.interaction_basis.sections import Affine, Mlp


class ClosedForm:
    """J C = A + W_in diag(slope) B with A = P C, B = W_out C; only mean slopes and products are summed."""

    def __init__(self, section: Affine | Mlp, into_next: Tensor) -> None:
        self.section = section
        c = into_next.double()
        if isinstance(section, Affine):
            self.a, self.b = section.weight.double() @ c, None
        else:
            self.a = None if section.skip is None else section.skip.double() @ c
            self.b = c if section.write is None else section.write.double() @ c
            hidden = section.read.shape[1]
            self.slope = c.new_zeros(hidden)
            self.slopes = c.new_zeros(hidden, hidden)

    def add(self, points: list[Tensor], weights: tuple[float, ...]) -> None:
        """Take in a batch: its points along the path and their weights."""
        if not isinstance(self.section, Mlp):
            return
        slope = sum(w * self.section.slope(p) for w, p in zip(weights, points, strict=True))
        assert isinstance(slope, Tensor)
        rows = slope.flatten(0, -2).double()
        self.slope += rows.sum(0)
        self.slopes += rows.mT @ rows

    def result(self, count: int) -> Tensor:
        """The sum of J C C^T J^T over `count` data points."""
        if not isinstance(self.section, Mlp):
            assert self.a is not None
            return count * (self.a @ self.a.mT)
        assert self.b is not None
        read = self.section.read.double()
        total = read @ ((self.b @ self.b.mT) * self.slopes) @ read.mT
        if self.a is not None:
            crossed = self.a @ (self.b.mT * self.slope) @ read.mT
            total = total + count * (self.a @ self.a.mT) + crossed + crossed.mT
        return total
