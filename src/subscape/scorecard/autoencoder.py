"""A small sparse autoencoder of activations (batch top-k), trained in seconds: what codes are compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from subscape._shapes import Float
from subscape.rows import generator_of
from subscape.scorecard.case import sparse

STEPS, BATCH, RATE = 2_000, 256, 2e-3


class Autoencoder(nn.Module):
    """Latents of activations, of which `l0` a row are active on average; x ≈ b + relu(top(W (x − b))) V."""

    def __init__(
        self, activations: Float[Tensor, "row unit"], n: int, l0: float, seed: int
    ) -> None:
        super().__init__()
        self.l0 = l0
        self.mean = activations.mean(0)
        self.scale = (activations - self.mean).square().sum(1).mean().sqrt().clamp_min(1e-12)
        # Latents begin as rows of the data, so that few are dead.
        pick = torch.randint(len(activations), (n,), generator=generator_of(seed, 43))
        start = self.centred(activations[pick]) + 1e-3 * torch.randn(
            n, activations.shape[1], generator=generator_of(seed, 44)
        ).to(activations)
        start = start / start.norm(dim=1, keepdim=True).clamp_min(1e-12)
        self.decoder = nn.Parameter(start.clone())
        self.encoder = nn.Parameter(start.clone())
        self.bias = nn.Parameter(torch.zeros(n).to(activations))

    def centred(self, activations: Float[Tensor, "row unit"]) -> Float[Tensor, "row unit"]:
        """Activations of zero mean and unit root mean square length."""
        return (activations - self.mean) / self.scale

    def latents(self, x: Float[Tensor, "row unit"]) -> Float[Tensor, "row latent"]:
        """Of centred activations; the most active ones of these rows."""
        return sparse((x @ self.encoder.mT + self.bias).relu(), self.l0)

    @torch.no_grad()
    def codes(self, activations: Float[Tensor, "row unit"]) -> Float[Tensor, "row latent"]:
        """Latents of activations."""
        return self.latents(self.centred(activations))

    @torch.no_grad()
    def fvu(self, activations: Float[Tensor, "row unit"]) -> float:
        """Of centred activations."""
        x = self.centred(activations)
        return float((x - self.latents(x) @ self.decoder).square().sum() / x.square().sum())


def train_autoencoder(
    activations: Float[Tensor, "row unit"], n: int, l0: float, seed: int = 0, steps: int = STEPS
) -> Autoencoder:
    """Train one on activations."""
    model = Autoencoder(activations, n, l0, seed)
    x = model.centred(activations)
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    generator = generator_of(seed, 45)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        batch = x[torch.randint(len(x), (min(BATCH, len(x)),), generator=generator)]
        loss = (batch - model.latents(batch) @ model.decoder).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            model.decoder.div_(model.decoder.norm(dim=1, keepdim=True).clamp_min(1e-12))
    return model.requires_grad_(False)
