"""A model that can only move along its subnetworks: W0 + Σ δ_k d_k with the δ_k as its only parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subscape._checks import require
from subscape._shapes import Float
from subscape.data import Samples
from subscape.lowrank import Stack
from subscape.lowrank.combination import Combination
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Functional, Outputs, Target, at_places, places


class SteeredModel(nn.Module):
    """The user's model, frozen, with one trainable number for each of some subnetworks.

    Example::

        steered = subscape.SteeredModel(found, model, [3, 17])
        optimiser = torch.optim.Adam(steered.parameters(), lr=0.03)

    Called like the model, it returns what the model returns at W0 + Σ δ_k d_k. The model itself stays as it is,
    and is no submodule: `parameters`, `state_dict` and `train` have to do with the δ_k only, while `to` moves
    the model too. With a Hugging Face `Trainer` set `remove_unused_columns=False`.

    Args:
        found: the decomposition.
        model: the model it was made for, in eval mode if it has dropout or batch norm.
        subnetworks: which ones may move; by default all.
        outputs: as for `Target`; only for `outputs`.

    Raises:
        ValueError: if the model is another one.
        IndexError: if there is no such subnetwork.
    """

    def __init__(
        self,
        found: Decomposition,
        model: nn.Module | Target,
        subnetworks: Sequence[int] | None = None,
        *,
        outputs: Outputs | None = None,
    ) -> None:
        super().__init__()
        if isinstance(model, Target):
            found.verify(model)
        target = model if isinstance(model, Target) else found.target_in(model, outputs=outputs)
        # Which holds the model: as a submodule it would be trained, saved and put into train mode.
        self.target = target
        self.subnetworks = chosen(len(found), subnetworks)
        directions = found.directions
        weights = directions.weights[torch.tensor(self.subnetworks)].detach().to(target.like)
        self.combination = Combination(Stack(directions.layout, weights))
        self.coefficients = nn.Parameter(weights.new_zeros(len(self.subnetworks)))
        others = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and name not in target.names
        }
        self._others = others
        self._places = places(self.model, [*target.names, *others])

    def extra_repr(self) -> str:
        """How many of how many move, in the words of `repr`."""
        n = len(self.subnetworks)
        return f"{n} subnetworks of {type(self.model).__name__} move"

    @property
    def model(self) -> nn.Module:
        """The user's model."""
        return self.target.model

    @property
    def deltas(self) -> dict[int, float]:
        """δ_k by index, as `Decomposition.edit` takes them."""
        return dict(zip(self.subnetworks, self.coefficients.tolist(), strict=True))

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        """W0 + Σ δ_k d_k by name of the decomposed parameters."""
        parameters = self.target.parameters
        return {
            # In half precision the sum is rounded once.
            name: (parameters[name].detach().to(change.dtype) + change).to(parameters[name].dtype)
            for name, change in self.combination(self.coefficients).items()
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns for these arguments, with its weights moved."""
        return self._functional()(*args, **kwargs)

    def outputs(self, batch: Samples) -> Float[Tensor, "sample ..."]:
        """The outputs as a tensor, as `Target.outputs` gives them."""
        return self.target.called(batch, self._functional())

    def _functional(self) -> Functional:
        # Checkpointed activations are made again after the call, with weights that are not moved.
        require(
            not any(
                getattr(m, "gradient_checkpointing", 0) and m.training for m in self.model.modules()
            ),
            "model",
            "a model without gradient checkpointing, or in eval mode",
            "one that makes its activations again in the backward pass",
            "Call model.eval().",
        )
        frozen = {name: parameter.detach() for name, parameter in self._others.items()}
        return Functional(self.model, at_places(frozen | self.weights(), self._places))

    def _apply(self, fn: Any, recurse: bool = True) -> SteeredModel:
        self.model._apply(fn, recurse)
        return super()._apply(fn, recurse)


def chosen(n: int, subnetworks: Sequence[int] | None) -> list[int]:
    """The indices asked for, in order; all of them by default."""
    indices = list(range(n)) if subnetworks is None else sorted(subnetworks)
    expected, repair = f"some of the subnetworks 0 to {n - 1}", "Leave it out for all of them."
    require(bool(indices), "subnetworks", expected, "none", repair)
    wrong = [i for i in indices if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < n]
    require(not wrong, "subnetworks", expected, f"{wrong}", repair, error=IndexError)
    require(len({*indices}) == len(indices), "subnetworks", "each one once", f"{indices}")
    return indices
