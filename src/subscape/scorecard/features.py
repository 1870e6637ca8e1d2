"""Figures of every row to tell rows apart by: codes, and what stands beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.scorecard.autoencoder import train_autoencoder
from subscape.scorecard.case import Case, Part
from subscape.scorecard.spans import principal
from subscape.scorecard.units import shared_module, units_of


@dataclass(frozen=True)
class Features:
    """Figures of the rows to fit on and of the rows to score."""

    name: str
    """Of what."""
    fit: Float[Tensor, "fit figure"]
    """Of the rows to fit on."""
    held: Float[Tensor, "row figure"]
    """Of the rows to score."""
    neurons: bool = False
    """Whether they are dense, with something to say at either end."""

    @property
    def sizes(self) -> tuple[Float[Tensor, "fit figure"], Float[Tensor, "row figure"]]:
        """What is large in rows that a figure is for."""
        return (self.fit, self.held) if self.neurons else (self.fit.abs(), self.held.abs())


@dataclass(frozen=True)
class Every:
    """All features, with what is to be said of them."""

    families: tuple[Features, ...]
    """Subnetworks first."""
    notes: tuple[str, ...]
    """What is to be known of them, or is missing."""


def features_of(case: Case) -> Every:
    """Codes of subnetworks, principal and random directions; neurons, and an autoencoder of the block's output."""
    n, l0 = len(case.decomposition), case.l0
    span = principal(case.gram, n)
    families = [
        Features("subnetworks", case.fit_coefficients, case.held_coefficients),
        Features("principal directions", span.inner(case.gram), span.inner(case.cross)),
        Features(
            "random directions",
            case.fit.inner(case.chance.encoder),
            case.held.inner(case.chance.encoder),
        ),
    ]
    fit, held = (units_of(part.source, part.samples) for part in (case.fit, case.held))
    notes = []
    if fit[0] is None or held[0] is None:
        notes.append(
            "No neurons: the modules with the parameters have no output of their own for every row."
        )
    else:
        own = (
            ""
            if shared_module(case.target.names)
            else ". The model's own outputs may be among them"
        )
        families.append(Features("neurons", fit[0].cpu(), held[0].cpu(), neurons=True))
        notes.append(
            f"Neurons: the {fit[0].shape[1]} outputs of the modules with the decomposed parameters, dense; of "
            f"images channel means{own}."
        )
    if fit[1] is None or held[1] is None:
        notes.append("No autoencoder: the block has no output of its own for every row.")
    else:
        model = train_autoencoder(fit[1].cpu(), n, l0, case.config.seed)
        codes = [model.codes(values.cpu()) for values in (fit[1], held[1])]
        families.append(Features("autoencoder latents", codes[0], codes[1]))
        notes.append(
            f"Sparse autoencoder: of the block's output ({fit[1].shape[1]} units), {n} latents, batch top-k of "
            f"{l0:.3g}, trained here for seconds on {len(fit[1]):,} rows; FVU of activations "
            f"{model.fvu(held[1].cpu()):.2f}. One that was trained at length may do better."
        )
    cpu = [Features(f.name, f.fit.cpu(), f.held.cpu(), f.neurons) for f in families]
    return Every(tuple(cpu), tuple(notes))


def values_in_both(case: Case, kind: str, least: int) -> list[int]:
    """Values of a kind that enough rows of both parts have and some do not, most frequent first."""

    def counts(part: Part) -> dict[int, int]:
        values, number = part.kinds[kind].unique(return_counts=True)
        return dict(zip(values.tolist(), number.tolist(), strict=True))

    fit, held = counts(case.fit), counts(case.held)
    enough = [
        v
        for v, n in fit.items()
        if v >= 0
        and least <= n <= len(case.fit) - least
        and least <= held.get(v, 0) <= len(case.held) - least
    ]
    return sorted(enough, key=lambda v: -fit[v])


def members(values: Tensor, classes: list[int]) -> Tensor:
    """Which rows have which of these values, [row, class]."""
    return values[:, None] == torch.tensor(classes, dtype=torch.long)
