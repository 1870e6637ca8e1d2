"""A metric on parameters, one Kronecker factor per mode of every tensor: g̃ = F^(−p) g.

With F ≈ E[g gᵀ] as a product of the second moments C_m of the gradients unfolded along each mode, F^(−p) acts
mode by mode, just as Tucker and CP factors do: a direction of some rank keeps that rank exactly, and its
inner products with gradients cost what they cost without. p = ½ makes rows isotropic (whitens them).

Directions live in three coordinates. Learned: ṽ, beside g̃. To push: d = F^(−p) ṽ, for which ⟨g, d⟩ = ⟨g̃, ṽ⟩, so
that it moves just the rows in which the code is large. Of gradients: u = F^p ṽ, what gradients are made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Float
from subscape.lowrank.layout import TensorLayout
from subscape.lowrank.stack import Stack

LARGEST_MODE = 4096
"""Size of a mode from which on only the diagonal of its second moment is used."""


@dataclass(frozen=True)
class TensorMetric:
    """What acts on one tensor."""

    modes: tuple[Float[Tensor, "..."], ...]
    """C_m^(−p) of every mode [size, size], or its diagonal [size]."""
    inverse: tuple[Float[Tensor, "..."], ...]
    """C_m^p."""
    scale: float
    """What all of the tensor is multiplied by, so that every tensor has the same mean square per row."""

    def to(self, like: Tensor) -> TensorMetric:
        """On another device and in another type."""
        modes, inverse = ([m.to(like) for m in ms] for ms in (self.modes, self.inverse))
        return TensorMetric(tuple(modes), tuple(inverse), self.scale)

    def without(self, mode: int) -> TensorMetric:
        """The same with nothing done along one mode."""
        modes = list(self.modes)
        modes[mode] = modes[mode].new_ones(len(modes[mode]))
        return TensorMetric(tuple(modes), (), self.scale)

    def along(self, mode: int, values: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
        """C_m^(−p) on the last axis."""
        return _times(self.modes[mode], values)

    def on_rest(self, values: Float[Tensor, "... rest"], shape: Sequence[int]) -> Tensor:
        """All modes but the first, which the last axis holds flattened."""
        if len(shape) == 2:
            return self.along(1, values)
        whole = values.unflatten(-1, tuple(shape[1:]))
        for mode in range(1, len(shape)):
            axis = mode - len(shape)
            whole = self.along(mode, whole.movedim(axis, -1)).movedim(-1, axis)
        return whole.flatten(1 - len(shape))


@dataclass(frozen=True, repr=False)
class Metric:
    """A Kronecker metric over all tensors."""

    tensors: Mapping[str, TensorMetric]
    """By parameter name."""

    def __repr__(self) -> str:
        return f"Metric({len(self.tensors)} tensors)"

    def of(self, names: Sequence[str]) -> Metric:
        """That of some of the tensors alone, which together then have the mean square per row that all had."""
        more = (len(self.tensors) / len(names)) ** 0.5
        return Metric({
            n: replace(self.tensors[n], scale=self.tensors[n].scale * more) for n in names
        })

    def to_push(self, stack: Stack) -> Stack:
        """Directions d = F^(−p) ṽ: the directions to move weights along."""
        return self._on(stack, inverse=False)

    def to_gradients(self, stack: Stack) -> Stack:
        """Directions u = F^p ṽ: the directions that row gradients are made of."""
        return self._on(stack, inverse=True)

    def on_tensors(
        self, values: Mapping[str, Float[Tensor, "..."]], *, inverse: bool = False
    ) -> dict[str, Float[Tensor, "..."]]:
        """F^(−p) of tensors in full by parameter name, or F^p, which takes a change of weights into the metric."""
        moved = {}
        for name, whole in values.items():
            own = self.tensors[name]
            for mode, matrix in enumerate(own.inverse if inverse else own.modes):
                whole = _times(matrix, whole.movedim(mode, -1)).movedim(-1, mode)
            moved[name] = whole / own.scale if inverse else whole * own.scale
        return moved

    def read_out(self, stack: Stack) -> Stack:
        """F^(−2p) v: directions to push from directions of gradients that were learned without a metric."""
        return self.to_push(self.to_push(stack))

    def _on(self, stack: Stack, *, inverse: bool) -> Stack:
        pieces = stack.pieces()
        lead = stack.weights.shape[:-1]
        parts = []
        for t in stack.layout.tensors:
            metric = self.tensors[t.name]
            modes = metric.inverse if inverse else metric.modes
            scale = 1 / metric.scale if inverse else metric.scale
            moved = _on_pieces(t, pieces[t.name], modes)
            moved[0] = moved[0] * scale
            parts += [p.reshape(*lead, -1) for p in moved]
        return Stack(stack.layout, torch.cat(parts, dim=-1))

    def to(self, like: Tensor) -> Metric:
        """On another device and in another type."""
        return Metric({name: t.to(like) for name, t in self.tensors.items()})

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors by name."""
        out: dict[str, Tensor] = {}
        for name, t in self.tensors.items():
            out[f"{name}.scale"] = torch.tensor(t.scale, dtype=torch.float64)
            for mode, (matrix, inverse) in enumerate(zip(t.modes, t.inverse, strict=True)):
                out[f"{name}.{mode}"], out[f"{name}.{mode}.inverse"] = matrix, inverse
        return out

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> Metric:
        """What `state` gave."""
        for name, shape in shapes.items():
            scale = state.get(f"{name}.scale", torch.zeros(()))
            right = scale.numel() == 1 and float(scale) > 0
            require(right, f"{name}.scale", "a number above 0", f"{scale.tolist()}")
            for mode, size in enumerate(shape):
                for key in (f"{name}.{mode}", f"{name}.{mode}.inverse"):
                    got = list(state[key].shape) if key in state else "none"
                    right = got in ([size], [size, size])
                    require(right, key, f"a matrix [{size}, {size}], or its diagonal", got)
        return cls({
            name: TensorMetric(
                tuple(state[f"{name}.{mode}"] for mode in range(len(shape))),
                tuple(state[f"{name}.{mode}.inverse"] for mode in range(len(shape))),
                float(state[f"{name}.scale"]),
            )
            for name, shape in shapes.items()
        })


def tensor_metric(
    moments: Sequence[Float[Tensor, "..."]], power: float, damping: float
) -> TensorMetric:
    """The metric of one tensor from its second moments, each with a mean eigenvalue of one."""
    modes, inverses = [], []
    for moment in moments:
        mean = (moment if moment.dim() == 1 else moment.diagonal()).mean()
        normed = moment / mean if mean > 0 else moment
        values, vectors = (normed, None) if moment.dim() == 1 else torch.linalg.eigh(normed)
        values = (values.clamp_min(0) + damping).clamp_min(torch.finfo(values.dtype).tiny)
        for powers, sign in ((modes, -1), (inverses, 1)):
            scaled = values ** (sign * power)
            powers.append(scaled if vectors is None else (vectors * scaled) @ vectors.mT)
    return TensorMetric(tuple(modes), tuple(inverses), 1.0)


def _times(matrix: Tensor, values: Float[Tensor, "... size"]) -> Float[Tensor, "... size"]:
    """A symmetric matrix, or a diagonal, on the last axis."""
    return values * matrix if matrix.dim() == 1 else values @ matrix


def _on_pieces(t: TensorLayout, pieces: list[Tensor], modes: Sequence[Tensor]) -> list[Tensor]:
    """Every mode's matrix on that mode: on its factor, or on the core where it has none."""
    if not t.shape:
        return list(pieces)
    if t.form == "cp":
        return [_times(m, factor.mT).mT for m, factor in zip(modes, pieces, strict=True)]
    core, *factors = pieces
    moved = [
        _times(modes[mode], factor.mT).mT
        for mode, factor in zip(t.factored_modes, factors, strict=True)
    ]
    for mode in range(len(t.shape)):
        if mode not in t.factored_modes:
            axis = mode - len(t.shape)
            core = _times(modes[mode], core.movedim(axis, -1)).movedim(-1, axis)
    return [core, *moved]
