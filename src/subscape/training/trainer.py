"""Train dictionaries on streams of row gradients; all restarts in one vectorised run.

What flows in: a stream of row gradients (of one target, or of several side by side) and a `TrainingConfig`.
What flows out: a dictionary with the axes [source, restart, subnetwork].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from subscape._checks import require
from subscape.gradients import GradientSource
from subscape.lowrank import Stack, initial_stack, make_layout
from subscape.rows import generator_of
from subscape.subnetworks.dictionary import Dictionary, Reconstruction
from subscape.subnetworks.selection import selection_of
from subscape.training.config import TrainingConfig
from subscape.training.estimate import estimate
from subscape.training.resampling import N_CANDIDATES, n_replaced_at_most, replacements
from subscape.training.schedule import in_dense_warmup, learning_rate
from subscape.training.stream import Stream

BEGIN_ANEW = "Begin anew: overwrite=True (--overwrite), or in another folder."


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
        self.sources, self.config = list(sources), config
        layout = make_layout(self.sources[0].shapes, config.rank, config.form)
        like = self.sources[0].target.like
        lead = (config.n_restarts, config.n_subnetworks)
        start = torch.stack([
            initial_stack(layout, lead, generator_of(source.seed, 2), like).weights
            for source in self.sources
        ])
        selection = selection_of(config.selection)(config.n_active, start.shape[:-1], like)
        # The encoder starts equal to the decoder.
        self.dictionary = Dictionary(Stack(layout, start.clone()), Stack(layout, start), selection)
        self.optimiser = torch.optim.Adam(
            self.dictionary.parameters(), lr=config.learning_rate, fused=True
        )
        at_once = config.micro_batch_size
        if at_once is None and len(self.sources) == 1 and self.sources[0].plan is not None:
            at_once = estimate(self.sources[0], config).rows_within
        self.stream = Stream(self.sources, layout, config.batch_size, config.steps, at_once)
        self.step_number = 0

    @torch.enable_grad()
    def step(self) -> Reconstruction:
        """One optimiser step; gives the reconstruction before it."""
        config = self.config
        gradients = self.stream.gradients(self.step_number)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(config, self.step_number)
        self.optimiser.zero_grad()
        batch = self.dictionary(gradients, everything=in_dense_warmup(config, self.step_number))
        batch.loss.backward()
        self.optimiser.step()
        self.dictionary.normalise()
        self.step_number += 1
        every, until = config.resample_every, config.resample_until * config.steps
        if every and self.step_number % every == 0 and self.step_number <= until:
            self._resample()
        return batch

    @torch.no_grad()
    def _resample(self) -> None:
        """Replace subnetworks of little use; see `resampling`. Source by source: none depends on another."""
        config = self.config
        n_draws = N_CANDIDATES * n_replaced_at_most(config.n_subnetworks)
        for index, source in enumerate(self.sources):
            generator = generator_of(source.seed, 4, self.step_number)
            picks = torch.rand(config.n_restarts, n_draws, generator=generator)
            new = replacements(
                self.stream.judging(index, self.step_number),
                self.dictionary.select(index),
                picks.to(self.dictionary.decoder_weights),
            )
            at = (index, new.replica, new.subnetwork)
            self.dictionary.encoder_weights[at] = new.weights
            self.dictionary.decoder_weights[at] = new.weights
            self.dictionary.selection.restart(at)
            for parameter in self.dictionary.parameters():
                for key, values in self.optimiser.state[parameter].items():
                    if key != "step":
                        values[at] = 0

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
        for number, parameter in enumerate(self.dictionary.parameters()):
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
        require(0 < step <= steps, "checkpoint", f"a step from 1 to {steps}", f"{step}", BEGIN_ANEW)
        wrong = [name for name, values in state.items() if not _possible(name, values)]
        require(not wrong, "checkpoint", "finite weights and moments", f"{wrong}", BEGIN_ANEW)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self.check_state(state)
        self.step_number = int(state["step"])
        weights = {k.split(".", 1)[1]: v for k, v in state.items() if k.startswith("dictionary.")}
        self.dictionary.load_state_dict(weights)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, values in state.items():
            if name.startswith("optimiser."):
                _, number, key = name.split(".")
                moments.setdefault(int(number), {})[key] = values
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
