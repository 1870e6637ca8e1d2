"""Train stacks of subnetworks on streams of row gradients; all restarts in one vectorised run.

What flows in: sources of row gradients (one, or several targets of one shape side by side) and a
`TrainingConfig`. What flows out: an encoder and a decoder stack per replica. The trainer knows no model
and no data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from subscape.gradients import (
    DenseRowGradients,
    FactoredRowGradients,
    GradientSource,
    RowGradients,
    generator_of,
)
from subscape.lowrank import Layout, Stack, initial_stack, make_layout
from subscape.lowrank.stack import unit
from subscape.subnetworks.objective import Reconstruction, reconstruct
from subscape.training.config import TrainingConfig
from subscape.training.estimate import estimate
from subscape.training.revival import N_CANDIDATES, n_replaced_at_most, replacements
from subscape.training.schedule import active_fraction, learning_rate

PREFETCH_BUDGET = 32 * 2**20
"""Bytes of row gradients of one source made ahead in one engine call, where batches are small."""
REVIVAL_ROWS = 1024
"""Rows, or one batch if that is more, on which the use of subnetworks is measured."""
REVIVAL_BUDGET = 128 * 2**20
"""Bytes of dense row gradients up to which more rows than a batch are taken."""
PREFETCH_STEPS = 64
"""Batches made ahead at most."""


class Trainer:
    """Adam on encoder and decoder, unit decoder rows after every step.

    Args:
        sources: row gradients to train on; several are trained side by side, each with its own restarts.
        config: the settings.

    All stacks have the axes [source, restart, subnetwork].
    """

    def __init__(self, sources: Sequence[GradientSource], config: TrainingConfig) -> None:
        self.sources = list(sources)
        self.config = config
        self.layout: Layout = make_layout(self.sources[0].shapes, config.rank, config.form)
        like = self.sources[0].target.like
        lead = (config.n_restarts, config.n_subnetworks)
        starts = [
            initial_stack(self.layout, lead, generator_of(source.seed, 2), like).weights
            for source in self.sources
        ]
        weights = torch.stack(starts)
        # The encoder starts equal to the decoder.
        self.encoder_weights = weights.clone().requires_grad_(True)
        self.decoder_weights = weights.clone().requires_grad_(True)
        self.optimiser = torch.optim.Adam(
            [self.encoder_weights, self.decoder_weights], lr=config.learning_rate, fused=True
        )
        for weight in (self.encoder_weights, self.decoder_weights):
            self.optimiser.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=like.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
        self.at_once: int | None = None
        """Rows of a batch whose gradients are made at once; None for all of them."""
        self._rows_within: int | None = None
        if len(self.sources) == 1 and self.sources[0].plan is not None:
            found = estimate(self.sources[0], config)
            self._rows_within = found.rows_within
            self.at_once = found.rows_at_once if found.n_micro_batches > 1 else None
        self.step_number = 0
        self._block: tuple[int, Tensor] | None = None

    @property
    def encoder(self) -> Stack:
        """V_in, [source, restart, subnetwork]."""
        return Stack(self.layout, self.encoder_weights)

    @property
    def decoder(self) -> Stack:
        """V_out, [source, restart, subnetwork]; unit rows."""
        return Stack(self.layout, self.decoder_weights)

    @torch.enable_grad()
    def step(self) -> Reconstruction:
        """One optimiser step; gives the reconstruction before it."""
        k = active_fraction(self.config, self.step_number)
        gradients = self.gradients(self.step_number)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, self.step_number)
        self.optimiser.zero_grad()
        found = reconstruct(gradients, self.encoder, self.decoder, k)
        found.fvu.sum().backward()
        self.optimiser.step()
        with torch.no_grad():
            self.decoder_weights.copy_(unit(self.decoder).weights)
        self.step_number += 1
        every, until = self.config.revive_every, self.config.revive_until * self.config.steps
        if every and self.step_number % every == 0 and self.step_number <= until:
            self._revive()
        return found

    @torch.no_grad()
    def _revive(self) -> None:
        """Replace subnetworks of little use; see `revival`. Source by source: none depends on another."""
        config = self.config
        n_draws = N_CANDIDATES * n_replaced_at_most(config.n_subnetworks)
        for index, source in enumerate(self.sources):
            gradients = self._revival_rows(source)
            picks = torch.rand(
                config.n_restarts,
                n_draws,
                generator=generator_of(source.seed, 4, self.step_number),
            )
            new = replacements(
                gradients,
                self.encoder.select(index),
                self.decoder.select(index),
                config.active_fraction,
                picks.to(self.decoder_weights),
            )
            for weight in (self.encoder_weights, self.decoder_weights):
                weight[index, new.replica, new.subnetwork] = new.weights
                for key in ("exp_avg", "exp_avg_sq"):
                    self.optimiser.state[weight][key][index, new.replica, new.subnetwork] = 0

    def _revival_rows(self, source: GradientSource) -> DenseRowGradients | FactoredRowGradients:
        """Fresh rows to judge subnetworks by: several batches, or one, or what may be made at once."""
        size = self.config.batch_size
        if self.at_once is not None and self.at_once < size:
            return source.gradients(source.block(self.step_number, 1, self.at_once))
        row = self.layout.n_parameters * self.decoder_weights.element_size()
        affordable = max(1, REVIVAL_BUDGET // (row * size))
        count = max(1, min(affordable, REVIVAL_ROWS // size, self.batches_within))
        return source.gradients(source.block(self.step_number, count, size))

    def gradients(self, number: int) -> RowGradients:
        """Row gradients of batch `number` of every source."""
        per_block = self.steps_per_block
        if per_block == 1 and len(self.sources) == 1:
            return self.sources[0].batch_gradients(
                number, self.config.batch_size, at_once=self.at_once
            )
        first = number // per_block * per_block
        if self._block is None or self._block[0] != first:
            size = self.config.batch_size
            flats = [s.gradients(s.block(first, per_block, size)).flat for s in self.sources]
            block = torch.stack(flats).unflatten(1, (per_block, size)).movedim(1, 0).contiguous()
            self._block = (first, block)
        return DenseRowGradients(self._block[1][number - first], self.sources[0].shapes)

    @property
    def steps_per_block(self) -> int:
        """Blocks start at multiples of their length, so a resumed run makes the very same ones."""
        row = self.layout.n_parameters * self.encoder_weights.element_size()
        # By source: a source draws the same rows and references whatever is trained beside it.
        affordable = PREFETCH_BUDGET // (row * self.config.batch_size)
        return max(1, min(affordable, self.batches_within))

    @property
    def batches_within(self) -> int:
        """Whole batches whose gradients may be made at once within the memory budget."""
        if self._rows_within is None:
            return PREFETCH_STEPS
        return min(PREFETCH_STEPS, self._rows_within // self.config.batch_size)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the rest of the run depends on."""
        state = {
            "step": torch.tensor(self.step_number),
            "encoder": self.encoder_weights.detach(),
            "decoder": self.decoder_weights.detach(),
        }
        for side, weight in (("encoder", self.encoder_weights), ("decoder", self.decoder_weights)):
            for key, value in self.optimiser.state[weight].items():
                state[f"{side}.{key}"] = value
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self.step_number = int(state["step"])
        with torch.no_grad():
            for side, weight in (
                ("encoder", self.encoder_weights),
                ("decoder", self.decoder_weights),
            ):
                weight.copy_(state[side])
                for key, value in self.optimiser.state[weight].items():
                    value.copy_(state[f"{side}.{key}"])
