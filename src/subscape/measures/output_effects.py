"""What a subnetwork does to outputs: ∂f(x, W0 + δ v)/∂δ at δ = 0, by forward mode.

(arXiv 2504.00194, sec. 3.2.) Forward mode gives all outputs of a row at once. Fused attention kernels have
no forward rule; then the explicit softmax kernel is taken, then two reverse passes, and at last central
differences.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from subscape._checks import out_of_memory, require
from subscape._shapes import Float, Int
from subscape.data import Samples
from subscape.measures.record import OutputEffect, TopOutputs, rounded
from subscape.measures.rows import Direction, RowSet, moved_by, outputs_at
from subscape.rows import generator_of
from subscape.targets import Target


def output_effects(
    target: Target,
    data: Samples,
    rows: RowSet,
    direction: Direction,
    *,
    micro_batch_size: int = 256,
) -> Float[Tensor, "row *output"]:
    """∂f/∂δ of moving along a direction, at every row, in output units per unit of δ."""
    names = list(direction)
    values = tuple(target.parameters[name].detach() for name in names)
    tangents = tuple(direction[name].to(target.parameters[name].dtype) for name in names)

    def outputs_of(part: RowSet) -> Callable[..., Tensor]:
        inputs = part.inputs(data, target)
        return lambda *moved: part.pick(
            target.outputs(inputs, dict(zip(names, moved, strict=True)))
        )

    parts = rows.split(micro_batch_size)
    return torch.cat([derivative(outputs_of(part), values, tangents) for part in parts])


def output_effects_by_difference(
    target: Target, data: Samples, rows: RowSet, direction: Direction, step: float = 1e-5
) -> Float[Tensor, "row *output"]:
    """Central finite differences of the outputs: the oracle of `output_effects`, for float64."""
    ahead, behind = (outputs_at(target, data, rows, moved_by(direction, d)) for d in (step, -step))
    return (ahead - behind) / (2 * step)


def derivative(
    function: Callable[..., Tensor], values: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> Tensor:
    """Directional derivative by the first way that the model's operations allow."""
    try:
        return _forward(function, values, tangents).detach()
    except (RuntimeError, NotImplementedError) as error:
        _check_no_rule(error)
        reason = str(error).splitlines()[0]
    # The explicit softmax has a forward rule and a second derivative; the fused kernels have neither.
    with sdpa_kernel(SDPBackend.MATH):
        for name, way in _WAYS.items():
            try:
                found = way(function, values, tangents)
            except (RuntimeError, NotImplementedError) as error:
                _check_no_rule(error)
                continue
            warnings.warn(
                f"forward mode is not there for this model as loaded ({reason}); used {name}",
                stacklevel=2,
            )
            return found.detach()
    raise AssertionError("differences need no rule")


_NO_RULE = re.compile(
    "forward AD|forward mode|functorch|vmap|jvp|derivative|differentia|does not require grad"
)
"""What torch says of an operation that has no derivative of a kind."""


def _check_no_rule(error: Exception) -> None:
    """Let through what is no lack of a rule: out of memory, or an error of the model's own."""
    if out_of_memory(error) or not _NO_RULE.search(str(error)):
        raise error


def _difference(function: Callable[..., Tensor], values: tuple, tangents: tuple) -> Tensor:
    """Central differences, with the step at which rounding and curvature weigh about the same."""
    size, length = (torch.stack([t.norm() for t in of]).norm() for of in (values, tangents))
    step = float(torch.finfo(values[0].dtype).eps ** (1 / 3) * (size + 1) / length)
    with torch.no_grad():
        ahead, behind = (
            function(*(v + sign * step * t for v, t in zip(values, tangents, strict=True)))
            for sign in (1, -1)
        )
        return (ahead - behind) / (2 * step)


def _forward(function: Callable[..., Tensor], values: tuple, tangents: tuple) -> Tensor:
    _load_forward_rules()
    return torch.func.jvp(function, values, tangents)[1]


@cache
def _load_forward_rules() -> None:
    """Let torch load its forward rules, without the warning of its own that this raises.

    Once only: every `catch_warnings` makes Python forget which warnings it has shown already, and ours
    would come once a subnetwork.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


def _twice_reverse(function: Callable[..., Tensor], values: tuple, tangents: tuple) -> Tensor:
    """J v as the derivative of p = uᵀ J v with respect to u, which is linear in u."""
    leaves = tuple(v.clone().requires_grad_(True) for v in values)
    with torch.enable_grad():
        outputs = function(*leaves)
        u = torch.randn(outputs.shape, generator=generator_of(0)).to(outputs).requires_grad_(True)
        pulled = torch.autograd.grad(outputs, leaves, u, create_graph=True, allow_unused=True)
        product = sum(
            ((g * t).sum() for g, t in zip(pulled, tangents, strict=True) if g is not None),
            start=(u * 0).sum(),
        )
        (found,) = torch.autograd.grad(product, u)
    # A backward pass that cannot be differentiated lets nothing through, without an error.
    parts = (u * found).detach()
    slack = torch.finfo(parts.dtype).eps ** 0.5 * parts.abs().sum()
    if (parts.sum() - product.detach()).abs() > slack:
        raise RuntimeError("a backward pass that cannot be differentiated")
    return found


_WAYS: dict[str, Callable[[Callable[..., Tensor], tuple, tuple], Tensor]] = {
    "forward mode with the explicit softmax attention": _forward,
    "two reverse passes with the explicit softmax attention": _twice_reverse,
    "central differences": _difference,
}


P_MIN = 1e-4
"""Outputs that no row gives a mean probability above this say nothing of what a model does."""


def top_outputs(
    effects: Float[Tensor, "row output"],
    n: int = 10,
    *,
    logits: Float[Tensor, "row output"] | None = None,
) -> TopOutputs:
    """The outputs most increased and most decreased along +δ, averaged over rows; at most n that have the sign.

    With the `logits` there outputs are ranked by the change of their mean probability p over rows, ∂p/∂δ, and
    their effect is ∂ log p/∂δ: of logits only differences matter, and those of an output of p ≈ 0 to nobody.

    Raises:
        ValueError: if an output of a row is not a vector.
    """
    require(effects.dim() == 2, "effects", "[row, output]", f"{list(effects.shape)}")
    change, scale = effects.mean(0), torch.ones_like(effects[0])
    if logits is not None:
        p = logits.to(effects.dtype).softmax(1)
        change = (p * (effects - (p * effects).sum(1, keepdim=True))).mean(0)
        scale = p.mean(0)
        change = torch.where(scale > P_MIN, change, 0)
    n, effect = min(n, len(change)), change / scale
    up, down = (change.topk(n, largest=largest) for largest in (True, False))
    return TopOutputs(
        _pairs(up.indices[up.values > 0], effect), _pairs(down.indices[down.values < 0], effect)
    )


def _pairs(
    which: Int[Tensor, " some"], effect: Float[Tensor, " output"]
) -> tuple[OutputEffect, ...]:
    return tuple(OutputEffect(i, rounded(float(effect[i]))) for i in which.tolist())
