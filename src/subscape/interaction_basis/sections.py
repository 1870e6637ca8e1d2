"""Sections whose Jacobian is known in closed form, and chains built from `nn.Sequential`.

`Affine` and `Mlp` act on every position by itself, so that the Jacobian step needs no backward pass
(see `jacobian.py`). Any other callable is a section too; it only takes longer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from subscape._checks import problem, require
from subscape._shapes import Float
from subscape.interaction_basis.chain import Chain, Section, identity, require_agreement

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU, nn.LeakyReLU)
"""Elementwise modules that `sequential_chain` knows; any other needs a section of one's own."""

N_PROBED = 4
"""Random samples on which a chain is compared with its model."""


@dataclass(frozen=True)
class Affine:
    """f W + b at every position."""

    weight: Float[Tensor, "node next_node"]
    bias: Float[Tensor, " next_node"]

    def __call__(self, values: Float[Tensor, "... node"]) -> Float[Tensor, "... next_node"]:
        """Run the section."""
        return values @ self.weight + self.bias

    def then(self, other: Affine) -> Affine:
        """This map and another after it, in float64."""
        weight = other.weight.double()
        return Affine(self.weight.double() @ weight, self.bias.double() @ weight + other.bias)


class Ends(NamedTuple):
    """A section in parts: write(core(read(f))) + f skip."""

    read: Affine
    core: Section
    write: Affine
    skip: Float[Tensor, "node next_node"] | None = None
    """At as many last positions as the core gives."""


@runtime_checkable
class HasEnds(Protocol):
    """A section that says what is affine at its ends, so that a basis there is taken together with it."""

    def ends(self) -> Ends:
        """Its parts."""
        ...


@dataclass(frozen=True)
class Mlp:
    """f P + act(f W_in + b_in) W_out + b_out at every position; P and W_out may be the identity or absent."""

    read: Float[Tensor, "node hidden"]
    """W_in."""
    read_bias: Float[Tensor, " hidden"]
    activation: Callable[[Tensor], Tensor]
    """Elementwise and differentiable almost everywhere."""
    write: Float[Tensor, "hidden next_node"] | None = None
    """W_out; None is the identity."""
    write_bias: Float[Tensor, " next_node"] | None = None
    skip: Float[Tensor, "node next_node"] | None = None
    """P; None is no skip connection."""

    def __call__(self, values: Float[Tensor, "... node"]) -> Float[Tensor, "... next_node"]:
        """Run the section."""
        hidden = self.activation(values @ self.read + self.read_bias)
        out = hidden if self.write is None else hidden @ self.write
        if self.write_bias is not None:
            out = out + self.write_bias
        return out if self.skip is None else out + values @ self.skip

    def ends(self) -> Ends:
        """Into the hidden units and out of them."""
        width = self.read.shape[1]
        write = torch.eye(width).to(self.read) if self.write is None else self.write
        bias = write.new_zeros(write.shape[1]) if self.write_bias is None else self.write_bias
        read = Affine(self.read, self.read_bias)
        return Ends(read, self.activation, Affine(write, bias), self.skip)

    def slope(self, values: Float[Tensor, "... node"]) -> Float[Tensor, "... hidden"]:
        """Derivative of the activation at the hidden units."""
        before = values @ self.read + self.read_bias
        found: tuple[Any, ...] = torch.func.vjp(self.activation, before)
        return found[1](torch.ones_like(before))[0]


@torch.no_grad()
def sequential_chain(model: nn.Module) -> Chain:
    """Cut an MLP in front of every linear layer; the chain shares its weights, detached.

    Each `nn.Linear` but the last is followed by at most one elementwise activation. A node layer is the input of a
    linear layer, that is the post-activations of the one before; the last node layer is `output`. Flatten and
    dropout layers are run or left out as in eval mode; sequences within are taken apart. The chain is compared
    with the model before it is returned.

    Raises:
        ValueError: if the model is no `nn.Sequential`, holds other layers, or does something else than run them.
    """
    if not _is_sequential(model):
        raise ValueError(_unknown("model", "an nn.Sequential of ", model))
    flatten, layers = _without_flatten(model)
    sections: list[Section] = []
    names: list[str] = []
    position = 0
    while position < len(layers):
        name, linear = layers[position]
        after = layers[position + 1][1] if position + 1 < len(layers) else None
        if not isinstance(linear, nn.Linear):
            raise ValueError(_unknown(f"model ({name})", "", linear))
        names.append(name)
        sections.append(_section(linear, after))
        position += 1 if after is None or isinstance(after, nn.Linear) else 2
    require(bool(sections), "model", "at least one linear layer", "none")
    chain = Chain((*names, "output"), tuple(sections), embed=flatten)
    weight = layers[0][1].weight
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(N_PROBED, weight.shape[1], generator=generator).to(weight)  # pyright: ignore[reportArgumentType, reportIndexIssue, reportCallIssue]
    # Hooks, and modules that were given another forward, do not show in the list of layers.
    require_agreement(chain, _in_eval_mode(model, probe), probe)
    return chain


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _in_eval_mode(model: nn.Module, inputs: Tensor) -> Tensor:
    modes = {module: module.training for module in model.modules()}
    try:
        return model.eval()(inputs)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _flat(model: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    layers = []
    for name, module in model.named_children():
        inner = _flat(module, f"{prefix}{name}.") if _is_sequential(module) else None
        layers += [(prefix + name, module)] if inner is None else inner
    return layers


def _without_flatten(model: nn.Module) -> tuple[Section, list[tuple[str, nn.Module]]]:
    layers = [(n, m) for n, m in _flat(model) if not isinstance(m, nn.Dropout)]
    if layers and isinstance(layers[0][1], nn.Flatten):
        return layers[0][1], layers[1:]
    return identity, layers


def _section(linear: nn.Linear, after: nn.Module | None) -> Section:
    weight = linear.weight.detach().mT
    bias = weight.new_zeros(weight.shape[1]) if linear.bias is None else linear.bias.detach()
    if isinstance(after, ACTIVATIONS):
        # A copy in place would overwrite the values that the slope is taken at.
        return Mlp(weight, bias, _out_of_place(after))
    if after is None or isinstance(after, nn.Linear | nn.Identity):
        return Affine(weight, bias)
    raise ValueError(_unknown("model (after a linear layer)", "", after))


def _out_of_place(activation: nn.Module) -> Callable[[Tensor], Tensor]:
    if getattr(activation, "inplace", False):
        return lambda values: activation(values.clone())
    return activation


def _unknown(argument: str, what: str, module: nn.Module) -> str:
    known = ", ".join(a.__name__ for a in ACTIVATIONS)
    return problem(
        argument,
        f"{what}linear layers, each followed by at most one of {known}",
        type(module).__name__,
        "Cut any other model with chain_from(model, cuts, inputs), or write the sections yourself and pass "
        "Chain(names, sections).",
    )
