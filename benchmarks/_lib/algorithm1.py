"""Algorithm 1 of arXiv 2504.00194 written out step by step, as the thing to be compared with.

Written from the paper's text for these benchmarks; every line does what the algorithm says in the plainest
way: `jacrev` of the batch's divergences, one dense gradient per tensor, dense contractions, a loop over
subnetworks. Where paper and authors' code differ it follows what the library does (exactly round(k·N)
active, unit L2 norm over all tensors), so that the losses can be compared digit by digit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from subscape.data import Samples

Pieces = Mapping[str, Sequence[Tensor]]
"""Per parameter: a core, then one factor [d, r] for every mode that is not kept whole."""


class Algorithm1:
    """One decomposition, one step at a time.

    `encoder` and `decoder` hold, by name of the decomposed parameters, pieces [subnetwork, ...].
    `outputs(model, x)` gives one output per row, `divergence(outputs, reference)` one value per row; without
    them rows are samples and the divergence is the MSE.
    """

    def __init__(
        self,
        model: nn.Module,
        encoder: Pieces,
        decoder: Pieces,
        active_fraction: float,
        learning_rate: float,
        outputs: Callable[[Callable[..., Any], Any], Tensor] | None = None,
        divergence: Callable[[Tensor, Tensor], Tensor] | None = None,
        chunk: int | None = None,
    ) -> None:
        self.model = model
        self.outputs = outputs or (lambda model, x: model(x))
        self.divergence = divergence or (lambda f, y: (f - y).square().mean(1))
        self.chunk = chunk  # rows that jacrev sends back side by side
        self.parameters = {name: model.get_parameter(name).detach() for name in encoder}
        self.encoder = _leaves(encoder)
        self.decoder = _leaves(decoder)
        self.active_fraction = active_fraction
        every = [p for side in (self.encoder, self.decoder) for ps in side.values() for p in ps]
        self.optimiser = torch.optim.Adam(every, lr=learning_rate)

    def step(self, x: Samples, reference: Tensor | None = None) -> Tensor:
        """One pass of the algorithm's loop; gives the loss before it."""
        if reference is None:  # outputs of the batch in random order
            with torch.no_grad():
                reference = self.outputs(self.model, x)
                reference = reference[torch.randperm(len(reference))]
        loss = self.loss(x, reference)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.normalise()
        return loss.detach()

    def loss(self, x: Samples, reference: Tensor) -> Tensor:
        """Share of the gradients' squared norm that the active subnetworks leave unexplained."""

        def divergences(parameters: dict[str, Tensor]) -> Tensor:
            def model(*args: Any, **kwargs: Any) -> Any:
                return functional_call(self.model, parameters, args, kwargs)

            outputs = self.outputs(model, x)
            return self.divergence(outputs, reference)

        gradients = jacrev(divergences, chunk_size=self.chunk)(self.parameters)
        # Encode: V_in ∇_W D, tensor by tensor.
        directions = _dense(self.encoder, self.parameters)
        coefficients = sum(
            torch.einsum("b...,v...->bv", gradients[name], directions[name]) for name in gradients
        )
        assert isinstance(coefficients, Tensor)
        # Keep the largest of the batch.
        n_kept = max(1, round(self.active_fraction * coefficients.numel()))
        cut = coefficients.detach().abs().flatten().topk(n_kept).values[-1]
        kept = coefficients * (coefficients.detach().abs() >= cut)
        # Decode: V_out, tensor by tensor, and compare.
        directions = _dense(self.decoder, self.parameters)
        error = total = torch.zeros(())
        for name, gradient in gradients.items():
            rebuilt = torch.einsum("bv,v...->b...", kept, directions[name])
            error = error + (gradient - rebuilt).square().sum()
            total = total + gradient.square().sum()
        return error / total

    @torch.no_grad()
    def normalise(self) -> None:
        """Scale every subnetwork to unit L2 norm over all its tensors together."""
        directions = _dense(self.decoder, self.parameters)
        for v in range(len(next(iter(directions.values())))):
            norm = sum(d[v].square().sum() for d in directions.values()) ** 0.5
            for pieces in self.decoder.values():
                for piece in pieces:
                    piece[v] /= norm ** (1 / len(pieces))


def _leaves(pieces: Pieces) -> dict[str, list[Tensor]]:
    return {
        name: [p.detach().clone().requires_grad_(True) for p in ps] for name, ps in pieces.items()
    }


def _dense(pieces: Pieces, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply the pieces of every subnetwork out: core ×_1 U_1 ×_2 U_2 …."""
    dense = {}
    for name, (core, *factors) in pieces.items():
        rest = iter(factors)
        for mode, size in enumerate(like[name].shape, start=1):
            if core.shape[mode] != size:  # a mode of full rank has no factor
                core = torch.einsum("v...r,vdr->v...d", core.movedim(mode, -1), next(rest))
                core = core.movedim(-1, mode)
        dense[name] = core
    return dense
