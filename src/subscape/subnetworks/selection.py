"""Selections: which coefficients of rows are active.

A selection owns its parameters, its penalty, its state and its rule for rows encoded one by one. Another one is
a class here (or anywhere) and its entry in `SELECTIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
import torch
from torch import Tensor, nn

from subscape._checks import nearest, problem, require
from subscape._shapes import Bool, Float
from subscape.lowrank import Stack


class Selection(nn.Module):
    """Which coefficients [*replica, row, subnetwork] are active; what all selections share.

    Args:
        l0: active subnetworks per row to aim at.
        lead: replicas and directions, [*replica, direction]; a subnetwork is one, or a group of neighbours.
        like: device and dtype to follow.
    """

    kind: str
    """Name in settings and files."""
    threshold: Tensor
    """From which size on a subnetwork is active where rows are encoded one by one, [*replica] or
    [*replica, subnetwork]."""

    group_size: int = 1
    """Directions of a subnetwork."""

    def __init__(self, l0: float, lead: torch.Size, like: Tensor) -> None:
        super().__init__()
        check_l0(l0, lead[-1] // self.group_size)
        self.l0 = l0
        self.lead = lead

    def sizes(self, coefficients: Tensor) -> Float[Tensor, "*replica row subnetwork"]:
        """What subnetworks are selected by."""
        return coefficients.abs()

    def forward(self, coefficients: Tensor) -> Float[Tensor, "*replica row subnetwork"]:
        """The coefficients of a batch of rows, zero where they are not active; differentiable."""
        raise NotImplementedError

    def penalty(self, coefficients: Tensor) -> Float[Tensor, "*replica"] | None:
        """What is added to the loss, an FVU."""
        return None

    @torch.no_grad()
    def calibrate(self, coefficients: Float[Tensor, "*replica row direction"]) -> None:
        """Set `threshold` after training, from the coefficients of many rows."""

    @torch.no_grad()
    def follow(self, decoder: Stack) -> None:
        """Take notice of new directions."""

    @torch.no_grad()
    def restart(self, at: tuple[int | Tensor, ...]) -> None:
        """Forget what was learned of subnetworks that begin anew."""

    def alone(self, coefficients: Tensor) -> Bool[Tensor, "*replica row subnetwork"]:
        """Which coefficients are active where rows do not influence each other."""
        threshold = self.threshold
        of_each = threshold.dim() == len(self.lead)
        cut = threshold[..., None, :] if of_each else threshold[..., None, None]
        return self.of_directions(self.sizes(coefficients) >= cut)

    def of_directions(
        self, active: Bool[Tensor, "*replica row subnetwork"]
    ) -> Bool[Tensor, "*replica row direction"]:
        """What is said of subnetworks, said of each of their directions."""
        if self.group_size == 1:
            return active
        return active.repeat_interleave(self.group_size, dim=-1)

    def select(self, index: int) -> Selection:
        """The selection of one replica of the first leading axis."""
        state = {name: values[index] for name, values in self.state_dict().items()}
        like = next(iter(state.values()))
        one = build(type(self), self.l0, self.lead[1:], like, self.group_size)
        one.load_state_dict(state)
        return one

    def of(self, kept: Sequence[int], l0: float) -> Selection:
        """Without replicas, the selection of some of the subnetworks, with another l0."""
        state = {
            name: values[kept] if values.shape[:1] == self.lead else values
            for name, values in self.state_dict().items()
        }
        some = type(self)(l0, torch.Size([len(kept)]), next(iter(state.values())))
        some.load_state_dict(state)
        return some


class BatchTopK(Selection):
    """The largest coefficients of a batch, l0 per row on average (arXiv 2504.00194, sec. 3.2)."""

    kind = "batch-top-k"

    def __init__(self, l0: float, lead: torch.Size, like: Tensor) -> None:
        super().__init__(l0, lead, like)
        self.register_buffer("threshold", like.new_full(lead[:-1], math.inf))

    def forward(self, coefficients: Tensor) -> Tensor:
        """See `Selection`."""
        keep = max(1, round(self.l0 * coefficients.shape[-2]))
        return coefficients * self.of_directions(largest(self.sizes(coefficients.detach()), keep))

    def calibrate(self, coefficients: Tensor) -> None:
        """The cut that keeps l0 per row over all rows together, whatever the luck of one batch."""
        keep = max(1, round(self.l0 * coefficients.shape[-2]))
        largest_sizes = self.sizes(coefficients).flatten(-2).topk(keep, dim=-1).values
        self.threshold.copy_(largest_sizes.amin(-1))


class GroupTopK(BatchTopK):
    """Batch top-k over groups of directions that are active together, by the length of what each would add.

    That length, ‖Σ_k s_k v_k‖ = √(s K sᵀ) with K the Gram matrix of a group's decoder rows, does not depend on
    which directions span the group, so they need not be orthonormal, which those of low rank cannot be made.
    """

    kind = "group-top-k"
    gram: Tensor
    """K of every group, [*replica, group, direction, direction]."""

    def __init__(self, l0: float, lead: torch.Size, like: Tensor, group_size: int = 1) -> None:
        self.group_size = group_size
        super().__init__(l0, lead, like)
        n_groups = (*lead[:-1], lead[-1] // group_size)
        start = torch.eye(group_size, dtype=like.dtype, device=like.device)
        self.register_buffer("gram", start.expand(*n_groups, -1, -1).clone())

    def sizes(self, coefficients: Tensor) -> Tensor:
        """See `Selection`; exactly |s| for groups of one."""
        if self.group_size == 1:
            return coefficients.abs()
        grouped = coefficients.unflatten(-1, (-1, self.group_size))
        along = torch.einsum("...rgi,...gij->...rgj", grouped, self.gram)
        return (along * grouped).sum(-1).clamp_min(0).sqrt()

    def follow(self, decoder: Stack) -> None:
        """See `Selection`."""
        grouped = decoder.weights.detach().unflatten(-2, (-1, self.group_size))
        self.gram.copy_(Stack(decoder.layout, grouped).gram())


class JumpReLU(Selection):
    """A learned threshold per subnetwork, with straight-through gradients (arXiv 2407.14435).

    Both signs count: a coefficient is active from the threshold's size on. The mean number of active subnetworks
    is pulled to l0. Thresholds and kernel are logarithmic, since the scale of gradients is the model's own.
    """

    kind = "jumprelu"
    WIDTH = 0.5
    """Of the kernel through which thresholds learn, in units of ln|coefficient|."""
    STRENGTH = 3.0
    """Of the pull to l0: what an L0 twice as large as asked for costs, in FVU."""

    def __init__(self, l0: float, lead: torch.Size, like: Tensor) -> None:
        super().__init__(l0, lead, like)
        self._begun = False
        self.log_threshold = nn.Parameter(like.new_full(lead, -math.inf))

    @property
    def threshold(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `Selection`."""
        return self.log_threshold.detach().exp()

    def forward(self, coefficients: Tensor) -> Tensor:
        """See `Selection`; the first batch sets the thresholds to what batch top-k would keep."""
        self._begin(coefficients.detach())
        return coefficients * self._active(coefficients)

    def penalty(self, coefficients: Tensor) -> Tensor:
        """(L0 / l0 − 1)²."""
        self._begin(coefficients.detach())
        l0 = self._active(coefficients.detach()).sum(-1).mean(-1)
        return self.STRENGTH * (l0 / self.l0 - 1).square()

    @torch.no_grad()
    def restart(self, at: tuple[int | Tensor, ...]) -> None:
        """See `Selection`: they begin at the mean threshold."""
        self.log_threshold[at] = self.log_threshold.mean(-1)[at[:-1]]

    @torch.no_grad()
    def _begin(self, coefficients: Tensor) -> None:
        if self._begun:
            return
        self._begun = True
        keep = max(1, round(self.l0 * coefficients.shape[-2]))
        cut = coefficients.abs().flatten(-2).topk(keep, dim=-1).values.amin(-1, keepdim=True)
        tiny = torch.finfo(cut.dtype).tiny
        fresh = torch.isneginf(self.log_threshold)
        start = cut.clamp_min(tiny).log()
        self.log_threshold.copy_(torch.where(fresh, start, self.log_threshold))

    def _active(self, coefficients: Tensor) -> Tensor:
        tiny = torch.finfo(coefficients.dtype).tiny
        size = coefficients.detach().abs().clamp_min(tiny).log()
        active: Tensor = _Step.apply(size, self.log_threshold[..., None, :], self.WIDTH)  # pyright: ignore[reportAssignmentType]
        return active


class _Step(torch.autograd.Function):
    """1 where size ≥ threshold; to the threshold, minus a rectangle of unit area around it."""

    @staticmethod
    def forward(ctx, size: Tensor, threshold: Tensor, width: float) -> Tensor:  # noqa: ANN001
        ctx.save_for_backward((size - threshold).abs() <= width / 2)
        ctx.width = width
        return (size >= threshold).to(size.dtype)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[None, Tensor, None]:  # noqa: ANN001
        (near,) = ctx.saved_tensors
        return None, -(grad_outputs[0] * near / ctx.width).sum(-2, keepdim=True), None


SELECTIONS: dict[str, type[Selection]] = {s.kind: s for s in (BatchTopK, GroupTopK, JumpReLU)}
"""By name."""


def selection_of(kind: str) -> type[Selection]:
    """The selection of that name."""
    require(
        kind in SELECTIONS,
        "selection",
        f"one of {list(SELECTIONS)}",
        repr(kind),
        nearest(kind, SELECTIONS),
    )
    return SELECTIONS[kind]


def build(
    kind: type[Selection], l0: float, lead: torch.Size, like: Tensor, group_size: int
) -> Selection:
    """A selection; only that of groups is told how large they are."""
    return kind(l0, lead, like, *([group_size] if group_size > 1 else []))


def check_l0(l0: float, n_subnetworks: int) -> None:
    """Refuse a number of active subnetworks outside (0, n_subnetworks]."""
    if not 0 < l0 <= n_subnetworks:
        raise ValueError(
            problem(
                "l0",
                f"a number of active subnetworks per row in (0, {n_subnetworks}]",
                repr(l0),
                "A tenth of the subnetworks is a start.",
            )
        )


def largest(
    coefficients: Float[Tensor, "*replica row subnetwork"], keep: int
) -> Bool[Tensor, "*replica row subnetwork"]:
    """Mask of the `keep` largest |coefficients| of a batch, over rows × subnetworks.

    Exactly that many in every replica: ties at the cut are broken by order, row before row and subnetwork
    before subnetwork. (The paper keeps all above a threshold, the authors' code int(k·N)+1.)
    """
    size = coefficients.flatten(-2).abs()
    if keep >= size.shape[-1]:
        return torch.ones_like(coefficients, dtype=torch.bool)
    if size.device.type != "cpu":  # without a look at the values, which would wait for the device
        best = size.topk(keep, dim=-1, sorted=False).indices
        mask = torch.zeros_like(size, dtype=torch.bool).scatter_(-1, best, True)
        return mask.view(coefficients.shape)
    # NumPy's partial sort takes a tenth of the time of topk on a CPU.
    at = size.shape[-1] - keep
    exact = size if size.dtype in (torch.float32, torch.float64) else size.float()
    cut = torch.from_numpy(numpy.partition(exact.numpy(), at, axis=-1)[..., at : at + 1])
    mask = size >= cut
    surplus = mask.sum(-1) - keep
    if surplus.any():  # ties at the cut: keep only the first of them
        tied = size == cut
        room = keep - (size > cut).sum(-1, keepdim=True)
        mask = (size > cut) | (tied & (tied.cumsum(-1) <= room))
    return mask.view(coefficients.shape)
