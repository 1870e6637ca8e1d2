"""The dictionary: encoder, decoder and selection, from row gradients to codes and the parts of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from subscape._shapes import Float
from subscape.gradients.row_gradients import DenseRowGradients, RowProducts, times_directions
from subscape.lowrank import Layout, Stack
from subscape.lowrank.energy import gram_fits
from subscape.lowrank.stack import unit
from subscape.lowrank.tensor import self_product
from subscape.subnetworks.objective import by_replica, error_of, reconstruction_error
from subscape.subnetworks.selection import Selection


class Reconstruction(NamedTuple):
    """One pass of a batch through encoder, selection and decoder."""

    error: Float[Tensor, "*replica"]
    """Σ_rows ‖g − ĝ‖²."""
    total: Float[Tensor, "*replica"]
    """Σ_rows ‖g‖²."""
    codes: Float[Tensor, "*replica row subnetwork"]
    """⟨g, V_in⟩ where active, otherwise 0."""
    penalty: Float[Tensor, "*replica"] | None
    """Of the selection."""

    @property
    def fvu(self) -> Float[Tensor, "*replica"]:
        """Fraction of variance unexplained, pooled and uncentred."""
        return self.error / self.total

    @property
    def loss(self) -> Float[Tensor, ""]:
        """What training minimises: replicas do not influence each other, so their sum."""
        return (self.fvu if self.penalty is None else self.fvu + self.penalty).sum()

    def detached(self) -> Reconstruction:
        """The same without a graph."""
        penalty = None if self.penalty is None else self.penalty.detach()
        return Reconstruction(
            self.error.detach(), self.total.detach(), self.codes.detach(), penalty
        )


class Products(NamedTuple):
    """All that a dictionary wants to know of rows."""

    coefficients: Float[Tensor, "*replica row subnetwork"]
    """⟨g, V_in⟩."""
    projected: Float[Tensor, "*replica row subnetwork"]
    """⟨g, V_out⟩."""
    squared_norm: Float[Tensor, "*target row"]
    """‖g‖²."""

    @classmethod
    def joined(cls, parts: Sequence[Products]) -> Products:
        """Those of rows one after the other."""
        coefficients, projected, norms = zip(*parts, strict=True)
        return cls(torch.cat(coefficients, -2), torch.cat(projected, -2), torch.cat(norms, -1))


class Dictionary(nn.Module):
    """Subnetworks: V_in, V_out and the selection between them, all with the axes [*replica, subnetwork].

    Of groups, that axis holds the directions, group after group.

    Args:
        encoder: V_in.
        decoder: V_out; its rows are unit vectors over all tensors together.
        selection: which coefficients are active.
    """

    def __init__(self, encoder: Stack, decoder: Stack, selection: Selection) -> None:
        super().__init__()
        self.layout: Layout = decoder.layout
        self.encoder_weights = nn.Parameter(encoder.weights)
        self.decoder_weights = nn.Parameter(decoder.weights)
        self.selection = selection
        selection.follow(decoder)

    @property
    def encoder(self) -> Stack:
        """V_in."""
        return Stack(self.layout, self.encoder_weights)

    @property
    def decoder(self) -> Stack:
        """V_out."""
        return Stack(self.layout, self.decoder_weights)

    def forward(self, gradients: RowProducts, *, everything: bool = False) -> Reconstruction:
        """Encode a batch, select, and measure what the decoder leaves unexplained.

        Args:
            gradients: row gradients of the batch.
            everything: let all coefficients be active.

        Returns:
            Codes and parts of the loss, differentiable.
        """
        products, gram = self._products(gradients)
        return self._reconstruction(products, gram, everything=everything)

    def of_products(self, products: Products, *, everything: bool = False) -> Reconstruction:
        """The same of rows that are known by their inner products alone."""
        return self._reconstruction(products, None, everything=everything)

    def _reconstruction(
        self, products: Products, gram: Tensor | None, *, everything: bool
    ) -> Reconstruction:
        coefficients, total = products.coefficients, products.squared_norm.sum(-1)
        codes = coefficients if everything else self.selection(coefficients)
        penalty = None if everything else self.selection.penalty(coefficients)
        error = error_of(total, codes, products.projected, self.decoder, gram)
        return Reconstruction(error, by_replica(total, error), codes, penalty)

    @torch.no_grad()
    def reconstruct(
        self, gradients: RowProducts | Products, *, alone: bool = False
    ) -> Reconstruction:
        """The same for evaluation: exact to more digits, without graph; `alone` selects row by row."""
        if isinstance(gradients, Products):
            coefficients, norms = gradients.coefficients, gradients.squared_norm
        else:
            coefficients, norms = gradients.inner(self.encoder), gradients.squared_norm()
        selection, total = self.selection, norms.double().sum(-1)
        codes = coefficients * selection.alone(coefficients) if alone else selection(coefficients)
        if isinstance(gradients, Products):
            error = error_of(total, codes.double(), gradients.projected.double(), self.decoder)
        else:
            error = reconstruction_error(gradients, codes, self.decoder).double()
        return Reconstruction(error, by_replica(total, error), codes, None)

    def products(self, gradients: RowProducts) -> Products:
        """What a dictionary wants to know of rows: differentiable."""
        products = gradients.inner(self.both)
        coefficients, projected = products.chunk(2, dim=-1)
        return Products(coefficients, projected, gradients.squared_norm())

    def _products(self, gradients: RowProducts) -> tuple[Products, Tensor | None]:
        """The same, and V_out V_outᵀ where it is at hand."""
        if not isinstance(gradients, DenseRowGradients) or not gram_fits(self.decoder):
            return self.products(gradients), None
        # Where rows are dense, the directions are multiplied out once for all three.
        flat = self.both.flat()
        coefficients, projected = times_directions(gradients.flat, flat).chunk(2, dim=-1)
        gram = self_product(flat.chunk(2, dim=-2)[1])
        return Products(coefficients, projected, gradients.squared_norm()), gram

    @property
    def both(self) -> Stack:
        """V_in, then V_out."""
        return Stack(self.layout, torch.cat([self.encoder_weights, self.decoder_weights], dim=-2))

    @torch.no_grad()
    def normalise(self) -> None:
        """Scale every decoder row to unit length."""
        self.decoder_weights.copy_(unit(self.decoder).weights)
        self.selection.follow(self.decoder)

    @torch.no_grad()
    def turn(self, sign: Float[Tensor, "*replica subnetwork"]) -> None:
        """Multiply directions by 1 or −1 in encoder and decoder alike, which no reconstruction notices."""
        turned = [side.turned(sign).weights for side in (self.encoder, self.decoder)]
        self.encoder_weights.copy_(turned[0])
        self.decoder_weights.copy_(turned[1])
        self.selection.follow(self.decoder)

    def select(self, index: int) -> Dictionary:
        """One replica of the first leading axis, frozen."""
        encoder, decoder = (
            Stack(self.layout, weights.detach()[index].clone())
            for weights in (self.encoder_weights, self.decoder_weights)
        )
        return Dictionary(encoder, decoder, self.selection.select(index)).requires_grad_(False)
