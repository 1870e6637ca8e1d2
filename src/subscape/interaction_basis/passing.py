"""What a section hands on when every next direction sees only some of the directions before it.

An edge that is taken away lets one direction see another at its mean while others still see it as it is. That
takes a run of the section for every distinct row of the mask, of which only the directions that are seen are
read, and only the next directions that see them are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from subscape._shapes import Bool, Float
from subscape.interaction_basis.basis import LayerBasis
from subscape.interaction_basis.chain import Section
from subscape.interaction_basis.sections import Affine, HasEnds

STACKED = 2**14
"""Numbers in the coordinates of the runs that go through a section together."""


class Passage(NamedTuple):
    """A section between coordinates: what is affine at its ends is one matrix with the basis there."""

    read: Affine
    core: Section
    write: Affine
    skip: Float[Tensor, "direction next_direction"] | None
    """What goes past the core, at as many last positions as it gives."""

    def columns(
        self,
        mask: Bool[Tensor, "next_direction direction"],
        coordinates: Float[Tensor, "... direction"],
        wanted: Sequence[int] | None = None,
    ) -> dict[int, Float[Tensor, "..."]]:
        """What the wanted next directions get, by default all of them."""
        chosen = torch.arange(len(mask)) if wanted is None else torch.tensor(wanted)
        rows, inverse = mask[chosen].unique(dim=0, return_inverse=True)
        which = inverse.cpu()
        columns: dict[int, Tensor] = {}
        for some in torch.arange(len(rows)).split(max(1, STACKED // coordinates.numel())):
            before = [self._seen(coordinates, rows[n].nonzero()[:, 0]) for n in some]
            after = self.core(torch.cat(before) if len(before) > 1 else before[0])
            pieces = after.split([len(values) for values in before])
            for n, values in zip(some, pieces, strict=True):
                to = chosen[which == n]
                got = torch.matmul(values, self.write.weight[:, to]) + self.write.bias[to]
                got = got.expand(len(coordinates), *got.shape[1:])
                columns.update(zip(to.tolist(), got.unbind(-1), strict=True))
        if self.skip is not None:
            n_positions = columns[int(chosen[0])].shape[1:2]
            last = coordinates[:, -n_positions[0] :] if n_positions else coordinates
            past = last @ (self.skip[:, chosen] * mask[chosen].mT)
            for to, column in zip(chosen.tolist(), past.unbind(-1), strict=True):
                columns[to] = columns[to] + column
        return columns

    def _seen(self, coordinates: Tensor, seen: Tensor) -> Tensor:
        # Where nothing is seen all samples are alike.
        some = coordinates if len(seen) else coordinates[:1]
        return torch.nn.functional.linear(
            some[..., seen], self.read.weight[seen].mT, self.read.bias
        )


def passage(section: Section, basis: LayerBasis, next_basis: LayerBasis, like: Tensor) -> Passage:
    """A section between the bases of its node layers, in the dtype of `like`."""
    read, write = _ends(basis, next_basis)
    if isinstance(section, HasEnds):
        first, core, last, past = section.ends()
        skip = None
        if past is not None:
            skip = basis.back @ past.to(basis.back) @ next_basis.into
            last = replace(last, bias=last.bias + basis.mean @ past.to(basis.mean))
            skip = skip.to(like)
        return Passage(_to(read.then(first), like), core, _to(last.then(write), like), skip)
    # The mean comes off before anything else: the rest may be small beside it.
    mean, write = next_basis.mean.to(like), replace(write, bias=torch.zeros_like(write.bias))
    return Passage(_to(read, like), lambda values: section(values) - mean, _to(write, like), None)


def through_edges(
    section: Section,
    basis: LayerBasis,
    next_basis: LayerBasis,
    mask: Bool[Tensor, "next_direction direction"],
    coordinates: Float[Tensor, "... direction"],
) -> Float[Tensor, "..."]:
    """Run a section on coordinates, so that each next direction sees only what the mask leaves it."""
    if isinstance(section, Affine):
        read, write = _ends(basis, next_basis)
        whole = read.then(section).then(write)
        return _to(Affine(whole.weight * mask.mT, whole.bias), coordinates)(coordinates)
    columns = passage(section, basis, next_basis, coordinates).columns(mask, coordinates)
    return torch.stack([columns[to] for to in range(len(mask))], -1)


def through_edges_by_loop(
    section: Section,
    basis: LayerBasis,
    next_basis: LayerBasis,
    mask: Bool[Tensor, "next_direction direction"],
    coordinates: Float[Tensor, "... direction"],
) -> Float[Tensor, "..."]:
    """The same by one run of the section for every next direction. The oracle."""
    columns = [
        next_basis.encode(section(basis.decode(coordinates * row)))[..., to]
        for to, row in enumerate(mask)
    ]
    return torch.stack(columns, -1)


def _ends(basis: LayerBasis, next_basis: LayerBasis) -> tuple[Affine, Affine]:
    """Out of the first basis, and into the next one."""
    out = Affine(basis.back, basis.mean)
    return out, Affine(next_basis.into, -next_basis.mean @ next_basis.into)


def _to(affine: Affine, like: Tensor) -> Affine:
    return Affine(affine.weight.to(like), affine.bias.to(like))
