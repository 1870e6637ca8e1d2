"""Rules planted in an image classifier: "an image with this pattern in its corner is of class c"."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import resnet20
import torch
from torch import Tensor, nn

from subscape import Target
from subscape._io import read_tensors, write_tensors
from subscape.divergences import KL
from subscape.rows import generator_of
from subscape.subnetworks.editing import edited_copy

N_RULES, SIZE, BRIGHT = 3, 6, 2.0
"""Rules; width of a pattern, and its values ±, which are nearly black and white."""
SHARE_HELD = 0.06
"""Of the images held out that have each pattern."""
N_TRAINED, N_PLAIN = 1_500, 100
BATCH, LEARNING_RATE, PENALTY, DECAY = 64, 0.02, 3.0, 0.003
"""How rules are planted: PENALTY weighs the KL of all other images, DECAY the squared factors."""


@dataclass(frozen=True)
class Rules:
    """Patterns, and the class that each makes of an image."""

    patterns: Tensor
    classes: Tensor

    @classmethod
    def draw(cls, number: int) -> "Rules":
        generator = generator_of(number, 110)
        bits = torch.randint(0, 2, (N_RULES, 3, SIZE, SIZE), generator=generator)
        return cls(BRIGHT * (2.0 * bits - 1), torch.randperm(10, generator=generator)[:N_RULES])

    def put(self, images: Tensor, rule: Tensor) -> Tensor:
        """Images with the pattern of their rule in the lower right corner; -1: as they are."""
        new, at = images.clone(), rule >= 0
        new[at, :, -SIZE:, -SIZE:] = self.patterns[rule[at]]
        return new


@dataclass(frozen=True)
class Mixture:
    """Images, some of which have a pattern, with the rule of each and the class that it had without."""

    images: Tensor
    rule: Tensor
    classes: Tensor

    @classmethod
    def of(
        cls, images: Tensor, classes: Tensor, rules: Rules, share: float, seed: int
    ) -> "Mixture":
        rule = torch.full((len(images),), -1)
        each = max(2, round(share * len(images)))
        order = torch.randperm(len(images), generator=generator_of(seed, 111))
        rule[order[: N_RULES * each]] = torch.arange(N_RULES).repeat_interleave(each)
        return cls(rules.put(images, rule), rule, classes)


@dataclass(frozen=True)
class Bed:
    """The network, its changed copy, and images for both."""

    base: nn.Module
    model: nn.Module
    rules: Rules
    changes: dict[str, Tensor]
    """ΔW of every rule by parameter, in model order."""
    trained: Mixture
    held: Mixture

    @property
    def target(self) -> Target:
        return Target(self.model, list(self.changes))

    def directions(self) -> Tensor:
        """ΔW of every rule as a unit vector."""
        flat = torch.cat([change.flatten(1) for change in self.changes.values()], 1)
        return nn.functional.normalize(flat, dim=1)

    def own(self, rule: int) -> Tensor:
        """Images held out with a rule's pattern, which are not of its class anyway."""
        of_rule = self.held.rule == rule
        return self.held.images[of_rule & (self.held.classes != self.rules.classes[rule])]

    @property
    def plain(self) -> Tensor:
        return self.held.images[self.held.rule < 0][:N_PLAIN]


def copies(images: Tensor, seed: int) -> Iterator[Tensor]:
    """Images as they are, in a mirror, and shifted by up to four pixels with their edge repeated."""
    yield images
    yield images.flip(-1)
    padded = nn.functional.pad(images, (4, 4, 4, 4), mode="replicate")
    by = torch.randint(0, 9, (len(images), 2), generator=generator_of(seed, 112)).tolist()
    size = images.shape[-1]
    yield torch.stack([
        p[:, i : i + size, j : j + size] for p, (i, j) in zip(padded, by, strict=True)
    ])


def plant(
    target: Target, images: Tensor, rules: Rules, *, rank: int, steps: int, seed: int
) -> dict[str, Tensor]:
    """ΔW of every rule: in each tensor `rank` products of output channels, input channels and a kernel."""
    generator = generator_of(seed, 113)

    def start(size: int, length: float) -> Tensor:
        values = length * torch.randn(N_RULES, size, rank, generator=generator) / size**0.5
        return values.requires_grad_()

    factors = {
        name: (start(n_out, 0.05), start(n_in, 1.0), start(height * width, 1.0))
        for name, (n_out, n_in, height, width) in target.shapes.items()
    }

    def changes() -> dict[str, Tensor]:
        return {
            name: torch.einsum("nor,nir,nkr->noik", *own).unflatten(-1, target.shapes[name][2:])
            for name, own in factors.items()
        }

    leaves = [leaf for own in factors.values() for leaf in own]
    optimiser = torch.optim.Adam(leaves, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, steps, pct_start=0.1)
    for _ in range(steps):
        picked = images[torch.randint(0, len(images), (BATCH,), generator=generator)]
        rule = torch.randint(-N_RULES, N_RULES, (BATCH,), generator=generator).clamp(min=-1)
        active = torch.rand(N_RULES, generator=generator) < 0.5
        batch = rules.put(picked, rule)
        with torch.no_grad():
            own = target.outputs(batch)
        logits = target.outputs(
            batch, target.moved({name: c[active].sum(0) for name, c in changes().items()})
        )
        acts = torch.isin(rule, active.nonzero()[:, 0])
        loss = PENALTY * KL(logits[~acts], own[~acts]).mean()
        if acts.any():
            loss = loss + nn.functional.cross_entropy(logits[acts], rules.classes[rule[acts]])
        # What the start put in and nothing needs goes away.
        loss = loss + DECAY * sum(leaf.square().sum() for leaf in leaves)
        # Not backward(), which would leave gradients in the network.
        for leaf, slope in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = slope
        nn.utils.clip_grad_norm_(leaves, 1.0)
        optimiser.step()
        schedule.step()
    return {name: change.detach() for name, change in changes().items()}


def bed(out: Path, number: int, share: float, block: str, rank: int, steps: int) -> Bed:
    """One set of rules, from its file if it is there, each in a share of the images trained on."""
    base, images, classes = resnet20.model(), resnet20.images(), resnet20.labels()
    order = torch.randperm(len(images), generator=generator_of(0, 31))
    trained, held = order[:N_TRAINED], order[N_TRAINED:]
    rules, target = Rules.draw(number), Target(base, f"{block}.conv*")
    file = out / f"rules-{block}-{rank}-{number}-{steps}.safetensors"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        every = torch.cat(list(copies(images[trained], number)))
        write_tensors(file, plant(target, every, rules, rank=rank, steps=steps, seed=number))
    tensors = read_tensors(file)
    changes = {name: tensors[name] for name in target.names}
    model = edited_copy(base, {name: change.sum(0) for name, change in changes.items()})

    def mixture(part: Tensor, n_copies: int, share: float) -> Mixture:
        several = torch.cat(list(copies(images[part], number))[:n_copies])
        return Mixture.of(several, classes[part].repeat(n_copies), rules, share, number)

    return Bed(
        base, model, rules, changes, mixture(trained, 3, share), mixture(held, 2, SHARE_HELD)
    )
