"""The two architectures of the toys. Their forward passes also run under vmap over parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from subscape._shapes import Float


class Bottleneck(nn.Module):
    """x -> ReLU(W_out W_in x + bias), or W_out W_hidden W_in x: no non-linearity at the bottleneck."""

    def __init__(
        self, n_inputs: int, n_hidden: int, n_outputs: int = 0, *, hidden_layer: bool = False
    ) -> None:
        super().__init__()
        n_outputs = n_outputs or n_inputs
        self.W_in = nn.Parameter(torch.zeros(n_hidden, n_inputs))
        self.W_hidden = nn.Parameter(torch.eye(n_hidden)) if hidden_layer else None
        self.W_out = nn.Parameter(torch.zeros(n_outputs, n_hidden))
        self.bias = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, x: Float[Tensor, "row input"]) -> Float[Tensor, "row output"]:
        """The outputs."""
        hidden = x @ self.W_in.mT
        if self.W_hidden is not None:
            hidden = hidden @ self.W_hidden.mT
        return torch.relu(hidden @ self.W_out.mT + self.bias)


class Perceptron(nn.Module):
    """Linear layers with an activation between them, and behind the last where asked."""

    def __init__(
        self,
        n_inputs: int,
        width: int,
        n_hidden_layers: int,
        activation: Callable[[Tensor], Tensor],
        *,
        activate_last: bool,
    ) -> None:
        super().__init__()
        widths = [n_inputs, *[width] * n_hidden_layers, n_inputs]
        # Without torch's own initial values, which would draw from the global generator.
        self.layers = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, a, b) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.activation = activation
        self.activate_last = activate_last

    def forward(self, x: Float[Tensor, "row input"]) -> Float[Tensor, "row input"]:
        """The outputs."""
        for i, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if i < len(self.layers) or self.activate_last:
                x = self.activation(x)
        return x


def xavier_normal(n_out: int, n_in: int, generator: Generator) -> Float[Tensor, "output input"]:
    """A weight with variance 2 / (inputs + outputs)."""
    return torch.randn(n_out, n_in, generator=generator) * (2 / (n_in + n_out)) ** 0.5


def kaiming_normal(n_out: int, n_in: int, generator: Generator) -> Float[Tensor, "output input"]:
    """A weight with variance 2 / inputs."""
    return torch.randn(n_out, n_in, generator=generator) * (2 / n_in) ** 0.5
