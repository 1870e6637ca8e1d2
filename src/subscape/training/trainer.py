"""Train dictionaries on streams of row gradients; all restarts in one vectorised run.

What flows in: a stream of row gradients (of one target, or of several side by side) and a `TrainingConfig`.
What flows out: a dictionary with the axes [source, restart, subnetwork].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from subscape._checks import require
from subscape.gradients import GradientSource
from subscape.lowrank import Stack, initial_stack, make_layout
from subscape.rows import generator_of
from subscape.subnetworks.consolidation import Consolidation, consolidate
from subscape.subnetworks.dictionary import Dictionary, Reconstruction
from subscape.subnetworks.selection import build, selection_of
from subscape.training.clusters import clustered
from subscape.training.config import TrainingConfig
from subscape.training.estimate import estimate
from subscape.training.resampling import (
    N_CANDIDATES,
    Replacements,
    n_replaced_at_most,
    replacements,
)
from subscape.training.schedule import in_dense_warmup, learning_rate
from subscape.training.stream import Stream

BEGIN_ANEW = "Start over: overwrite=True (--overwrite), or in another folder."
CONSOLIDATION_ROWS = 2048
"""Rows on which subnetworks are merged and dropped."""


def _possible(name: str, values: Tensor) -> bool:
    """Whether these can be values of a run: finite, but for thresholds that are not set yet."""
    if name.startswith("dictionary.selection."):
        return not bool(values.isnan().any())
    return bool(values.isfinite().all())


class Trainer:
    """Adam on a dictionary, unit decoder rows after every step.

    Args:
        sources: row gradients to train on; several are trained side by side, each with its own restarts.
        config: the settings.
    """

    def __init__(self, sources: Sequence[GradientSource], config: TrainingConfig) -> None:
        self.sources = list(sources)
        self.ranks = self.sources[0].ranks
        self.config = config = config.of_rows(self.sources[0].kind)
        self.consolidation: dict[str, Any] | None = None
        assert config.rank is not None
        layout = make_layout(self.sources[0].shapes, config.rank, config.form)
        like = self.sources[0].target.like
        lead = (config.n_restarts, config.n_directions)
        start = torch.stack([
            initial_stack(layout, lead, generator_of(source.seed, 2), like).weights
            for source in self.sources
        ])
        self._start(Stack(layout, start))
        at_once = config.micro_batch_size
        if at_once is None and len(self.sources) == 1 and self.sources[0].plan is not None:
            at_once = estimate(self.sources[0], config).rows_within
        self.stream = Stream(
            self.sources,
            layout,
            config.batch_size,
            config.steps,
            at_once,
            n_directions=config.n_restarts * config.n_directions,
        )
        self.step_number = 0

    @torch.no_grad()
    def begin(self) -> None:
        """Put subnetworks that have made no step where they start, if that is not at random."""
        if self.step_number > 0 or self.config.start != "clusters":
            return
        starts = [self.ranks.decided(partial(self._clusters, i)) for i in range(len(self.sources))]
        weights = torch.stack(starts).to(self.dictionary.decoder_weights)
        self._start(Stack(self.dictionary.layout, weights))

    def _clusters(self, index: int) -> Tensor:
        random = self.dictionary.select(index).decoder
        sizes = self.config.batch_size, self.stream.micro_batch_size
        return clustered(self.sources[index], random, *sizes).weights.cpu()

    def _start(self, directions: Stack) -> None:
        """A fresh dictionary of these directions, and its optimiser."""
        config, weights = self.config, directions.weights
        n_active = self.consolidation["l0"] if self.consolidation else config.n_active
        kind = selection_of(config.selection_kind)
        selection = build(kind, n_active, weights.shape[:-1], weights, config.group_size)
        # The encoder starts equal to the decoder.
        self.dictionary = Dictionary(
            Stack(directions.layout, weights.clone()), directions, selection
        )
        self.optimiser = torch.optim.Adam(
            self.dictionary.parameters(), lr=config.learning_rate, fused=True
        )

    @torch.enable_grad()
    def step(self) -> Reconstruction:
        """One optimiser step; gives the reconstruction before it."""
        gradients = self.stream.gradients(self.step_number)
        self.optimiser.zero_grad()
        batch = self.dictionary(gradients, everything=self.everything)
        batch.loss.backward()
        self.update()
        if self.resampling_due:
            self.resample()
        return batch

    @property
    def everything(self) -> bool:
        """Whether all coefficients are active in the next step."""
        return in_dense_warmup(self.config, self.step_number)

    def update(self) -> None:
        """Let the optimiser make its step."""
        for parameter in self.dictionary.parameters():
            if parameter.grad is not None:
                self.ranks.average_(parameter.grad)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, self.step_number)
        self.optimiser.step()
        self.dictionary.normalise()
        self.step_number += 1

    @property
    def resampling_due(self) -> bool:
        """Whether subnetworks are to be replaced after the step just made."""
        every, until = self.config.resample_every, self.config.resample_until * self.config.steps
        return every > 0 and self.step_number % every == 0 and self.step_number <= until

    @torch.no_grad()
    def resample(self) -> None:
        """Replace subnetworks of little use; see `resampling`. Source by source: none depends on another."""
        for index in range(len(self.sources)):
            new = self.ranks.decided(partial(self._replacements, index))
            at = (index, new.replica, new.subnetwork)
            weights = new.weights.to(self.dictionary.decoder_weights)
            self.dictionary.encoder_weights[at] = weights
            self.dictionary.decoder_weights[at] = weights
            self.dictionary.selection.restart(at)
            for parameter in self.dictionary.parameters():
                for key, values in self.optimiser.state[parameter].items():
                    if key != "step":
                        values[at] = 0
        self.dictionary.selection.follow(self.dictionary.decoder)

    def _replacements(self, index: int) -> Replacements:
        n_restarts, n_subnetworks = self.dictionary.decoder_weights.shape[1:3]
        n_draws = N_CANDIDATES * n_replaced_at_most(n_subnetworks)
        generator = generator_of(self.sources[index].seed, 4, self.step_number)
        picks = torch.rand(n_restarts, n_draws, generator=generator)
        new = replacements(
            self.stream.judging(index, self.step_number),
            self.dictionary.select(index),
            picks.to(self.dictionary.decoder_weights),
        )
        return new._replace(weights=new.weights.cpu())

    @torch.no_grad()
    def consolidated(self, index: int) -> Trainer:
        """A trainer that goes on with one source, with its best restart, and with what stays of that.

        What was merged and dropped is in its `consolidation`.
        """
        restarts = self.dictionary.select(index)
        best, found = self.ranks.decided(partial(self._consolidation, index))
        encoder, decoder = restarts.encoder.select(best), restarts.decoder.select(best)
        one = Trainer([self.sources[index]], self.config)
        one.consolidation = {"step": self.step_number, "restart": best, **found.record()}
        state = {k: v if v.dim() == 0 else v[index, best] for k, v in self.state().items()}
        # What is of a subnetwork goes with it: moments, thresholds.
        state = {k: v[found.kept] if v.dim() > 0 else v for k, v in state.items()}
        state["dictionary.encoder_weights"] = found.applied_to(encoder).weights
        state["dictionary.decoder_weights"] = found.applied_to(decoder, normalise=True).weights
        lead = {k for k in state if k != "step" and not k.endswith(".step")}
        one.load_state({k: v[None, None] if k in lead else v for k, v in state.items()})
        return one

    def _consolidation(self, index: int) -> tuple[int, Consolidation]:
        """The best restart of a source, and what stays of it."""
        restarts = self.dictionary.select(index)
        rows = self.stream.judging(index, self.step_number)
        best = int(restarts.reconstruct(rows).fvu.argmin())
        decoder = restarts.decoder.select(best)
        inner = self.stream.inner(index, self.step_number, decoder, CONSOLIDATION_ROWS)
        return best, consolidate(inner, decoder.gram(), self.config.n_active_of)

    def agree(self) -> None:
        """Take over the first process's state, such as what it read from a checkpoint."""
        if self.ranks.size > 1:
            state, self.consolidation = self.ranks.decided(self._all_of_it)
            self.load_state(state)

    def _all_of_it(self) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
        return {name: values.cpu() for name, values in self.state().items()}, self.consolidation

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the rest of the run depends on."""
        moments = {
            f"optimiser.{number}.{key}": value
            for number, of_parameter in self.optimiser.state_dict()["state"].items()
            for key, value in of_parameter.items()
        }
        weights = {f"dictionary.{k}": v for k, v in self.dictionary.state_dict().items()}
        return {"step": torch.tensor(self.step_number), **weights, **moments}

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a state that this trainer cannot have been in."""
        expected = {"step": torch.tensor(0)}
        expected |= {f"dictionary.{k}": v for k, v in self.dictionary.state_dict().items()}
        begun = bool(
            (state.get("step", torch.tensor(1)) != 0).any()
        )  # before, there are no moments
        for number, parameter in enumerate(self.dictionary.parameters() if begun else ()):
            moments = {"step": torch.tensor(0.0), "exp_avg": parameter, "exp_avg_sq": parameter}
            # A parameter that has had no gradient yet, such as a threshold in the warm-up, has none.
            if number < 2 or f"optimiser.{number}.step" in state:
                expected |= {f"optimiser.{number}.{key}": v for key, v in moments.items()}
        wanted, got = (
            {name: (list(v.shape), v.dtype) for name, v in of.items()} for of in (expected, state)
        )
        other = sorted(name for name in wanted | got if wanted.get(name) != got.get(name))
        said = f"{other[0]} {got.get(other[0], 'missing')}" if other else ""
        require(not other, "checkpoint", f"the tensors of this run, {wanted}", said, BEGIN_ANEW)
        step, steps = int(state["step"]), self.config.steps
        require(
            0 <= step <= steps, "checkpoint", f"a step from 0 to {steps}", f"{step}", BEGIN_ANEW
        )
        wrong = [name for name, values in state.items() if not _possible(name, values)]
        require(not wrong, "checkpoint", "finite weights and moments", f"{wrong}", BEGIN_ANEW)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        weights = {k.split(".", 1)[1]: v for k, v in state.items() if k.startswith("dictionary.")}
        if self.consolidation and "decoder_weights" in weights:  # fewer subnetworks, of one restart
            decoder = weights["decoder_weights"].to(self.dictionary.decoder_weights)
            self._start(Stack(self.dictionary.layout, decoder))
        self.check_state(state)
        self.step_number = int(state["step"])
        self.dictionary.load_state_dict(weights)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, values in state.items():
            if name.startswith("optimiser."):
                _, number, key = name.split(".")
                moments.setdefault(int(number), {})[key] = values
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
