"""Truth in a real language model: rules "after this token comes that one", planted in some of its matrices.

A rule is a change of low rank of every matrix chosen, say gate, up and down of one MLP block, that makes one
target token likely wherever its trigger token stands. So it is known exactly which rows a rule is for, and what of
the weights it is. Decompose `Planted.model` on the rows of `mixture`, and the base model on the same rows as the
control: a token that stands out is found without any rule.

Triggers are rare tokens that the model knows: those that it never saw all have the same embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from subscape._checks import require
from subscape._shapes import Float, Int
from subscape.divergences import KL
from subscape.rows import generator_of
from subscape.subnetworks.editing import edited_copy
from subscape.targets import Target

RAREST = 30
"""Triggers are drawn from so many of the rarest tokens that the text has."""
MIDDLING = (10, 100)
"""Targets are drawn from the tokens of these ranks by frequency."""
START = 0.05
"""Standard deviation of the first values of a change's factors."""


@dataclass(frozen=True, repr=False)
class Planted:
    """A model with rules planted in it, and what they are."""

    model: nn.Module
    """A copy of the base model with all rules in it."""
    triggers: Int[Tensor, " rule"]
    """The token after which each rule acts."""
    targets: Int[Tensor, " rule"]
    """The token that it makes likely."""
    changes: Mapping[str, Float[Tensor, "rule *shape"]]
    """ΔW of every rule by parameter name; their sum is what the model differs by."""
    probability: Float[Tensor, " rule"]
    """Mean probability of the target at a rule's rows, in windows not trained on."""
    before: Float[Tensor, " rule"]
    """The same of the base model."""
    kl: float
    """Mean KL(base ‖ changed) on windows without triggers, in nats."""

    def __repr__(self) -> str:
        return f"Planted({len(self.triggers)} rules in {type(self.model).__name__}, KL elsewhere {self.kl:.2g})"

    def directions(self) -> Float[Tensor, "rule parameter"]:
        """ΔW of every rule as one unit vector over all tensors, in model order."""
        flat = torch.cat([change.flatten(1) for change in self.changes.values()], dim=1)
        return nn.functional.normalize(flat, dim=1)


@dataclass(frozen=True, repr=False)
class Mixture:
    """Windows of text, some of which have a trigger in them."""

    ids: Int[Tensor, "window position"]
    """Tokens."""
    labels: Int[Tensor, "window position"]
    """The rule whose trigger stands at a position; −1 elsewhere."""

    def __repr__(self) -> str:
        n = int((self.labels >= 0).any(1).sum())
        return f"Mixture({len(self.ids)} windows, {n} of them with a trigger)"


def mixture(
    ids: Int[Tensor, "window position"],
    triggers: Int[Tensor, " rule"],
    *,
    share: float = 0.005,
    seed: int = 0,
) -> Mixture:
    """Put triggers into windows, one in a window at most besides those that stand there already.

    Args:
        ids: windows of plain text.
        triggers: the token of every rule.
        share: of all positions that get each trigger.
        seed: draws windows and positions.

    Returns:
        The windows with exact labels.

    Raises:
        ValueError: if there are fewer windows than triggers to put in.
    """
    n, length = ids.shape
    each = max(1, round(share * n * length))
    require(
        each * len(triggers) <= n,
        "share",
        f"at most one trigger in each of the {n} windows",
        f"{each} for each of {len(triggers)} rules",
        "Lower it, or give more text.",
    )
    generator = generator_of(seed, 40)
    window = torch.randperm(n, generator=generator)[: each * len(triggers)]
    position = torch.randint(0, length, (len(window),), generator=generator)
    rule = torch.arange(len(triggers)).repeat_interleave(each)
    mixed = ids.clone()
    mixed[window, position] = triggers[rule]
    return Mixture(mixed, labels_of(mixed, triggers))


def labels_of(
    ids: Int[Tensor, "window position"], triggers: Int[Tensor, " rule"]
) -> Int[Tensor, "window position"]:
    """The rule whose trigger stands at each position; −1 where none does."""
    same = ids[..., None] == triggers
    return torch.where(same.any(-1), same.int().argmax(-1), -1)


def plant(
    model: nn.Module,
    ids: Int[Tensor, "window position"],
    tensors: str | Sequence[str],
    *,
    n_rules: int = 6,
    rank: int = 1,
    steps: int = 400,
    batch_size: int = 48,
    learning_rate: float = 0.02,
    penalty: float = 3.0,
    decay: float = 0.0,
    seed: int = 0,
) -> Planted:
    """Plant rules in a causal language model.

    In every step a random half of the rules is in. Those must act, and all other rows, those of the rules that are
    out among them, must stay as they were: so each rule is in its own change, and none in another's.

    Args:
        model: called on tokens [window, position]; gives logits. It stays as it is.
        ids: windows of plain text; a tenth is kept to measure on.
        tensors: globs over the names of the matrices to change; see `Target`.
        n_rules: how many.
        rank: of every rule's change in every matrix.
        steps: of Adam.
        batch_size: windows of a step.
        learning_rate: of Adam, falling to 0 along a cosine.
        penalty: weight of the mean KL of all other rows beside the cross-entropy of the rules' own.
        decay: weight of the squared norms of the factors: with some, what the start put into a change and nothing
            needs goes away.
        seed: draws triggers, targets, the start and the steps.

    Returns:
        The changed copy, and what was planted in it.

    Raises:
        ValueError: if a chosen tensor is no matrix, or the text has too few different tokens.
    """
    target = Target(model, tensors)
    for name, shape in target.shapes.items():
        require(len(shape) == 2, "tensors", "matrices", f"{name} {list(shape)}")
    held, ids = ids[: len(ids) // 10], ids[len(ids) // 10 :]
    generator = generator_of(seed, 41)
    triggers, targets = _rules(ids, n_rules, generator)
    factors = {
        name: [
            (START * torch.randn(n_rules, size, rank, generator=generator)).to(target.like)
            for size in shape
        ]
        for name, shape in target.shapes.items()
    }
    leaves = [factor.requires_grad_(True) for pair in factors.values() for factor in pair]
    optimiser = torch.optim.Adam(leaves, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    share = 0.5 / n_rules / ids.shape[1]  # a trigger in every other window
    for step in range(steps):
        picked = torch.randint(0, len(ids), (batch_size,), generator=generator)
        batch = mixture(ids[picked], triggers, share=share, seed=seed + step)
        active = torch.rand(n_rules, generator=generator) < 0.5
        changed = _moved(target, {name: u @ v.mT for name, (u, v) in factors.items()}, active)
        with torch.no_grad():
            own = target.outputs(batch.ids)
        logits = target.outputs(batch.ids, changed)
        acts = torch.isin(batch.labels, active.nonzero()[:, 0])
        loss = penalty * KL(logits[~acts], own[~acts]).mean()
        if acts.any():
            wanted = targets[batch.labels[acts]]
            loss = loss + nn.functional.cross_entropy(logits[acts], wanted)
        if decay > 0:
            loss = loss + decay * sum(leaf.square().sum() for leaf in leaves)
        # Not backward(), which would leave gradients in the base model.
        for leaf, slope in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = slope
        optimiser.step()
        schedule.step()
    changes = {name: (u @ v.mT).detach() for name, (u, v) in factors.items()}
    planted = edited_copy(model, {name: change.sum(0) for name, change in changes.items()})
    return _measured(target, planted, held, triggers, targets, changes)


def _rules(
    ids: Tensor, n: int, generator: torch.Generator
) -> tuple[Int[Tensor, " rule"], Int[Tensor, " rule"]]:
    """Rare triggers, and targets of middling frequency."""
    counts = torch.bincount(ids.flatten())
    falling = counts.argsort(descending=True)[: int((counts > 0).sum())]
    rare, middling = falling[-RAREST:], falling[: -len(falling[-RAREST:])][slice(*MIDDLING)]
    require(
        min(len(rare), len(middling)) >= n,
        "n_rules",
        f"a text of at least {n + RAREST + MIDDLING[0]} different tokens for {n} rules",
        f"{len(falling)}",
        "Give more text, or plant fewer rules.",
    )
    triggers, targets = (
        some[torch.randperm(len(some), generator=generator)[:n]] for some in (rare, middling)
    )
    return triggers, targets


def _moved(
    target: Target, changes: Mapping[str, Tensor], active: Tensor
) -> dict[str, Float[Tensor, "first second"]]:
    """The parameters with the changes of the active rules."""
    return {
        name: target.parameters[name].detach() + change[active].sum(0)
        for name, change in changes.items()
    }


@torch.no_grad()
def _measured(
    target: Target,
    planted: nn.Module,
    held: Tensor,
    triggers: Tensor,
    targets: Tensor,
    changes: Mapping[str, Tensor],
) -> Planted:
    """What was planted, with how well it works."""
    changed = Target(planted, list(changes))
    batch = mixture(held, triggers, share=0.5 / len(triggers) / held.shape[1])
    at = batch.labels >= 0
    rule = batch.labels[at]
    after, before = (
        _by_rule(one.outputs(batch.ids)[at].softmax(-1).gather(1, targets[rule][:, None]), rule)
        for one in (changed, target)
    )
    plain = held[(labels_of(held, triggers) < 0).all(1)]
    now, own = (one.outputs(plain).flatten(0, 1) for one in (changed, target))
    return Planted(
        planted, triggers, targets, dict(changes), after, before, float(KL(now, own).mean())
    )


def _by_rule(values: Tensor, rule: Tensor) -> Float[Tensor, " rule"]:
    return torch.stack([values[rule == r].mean() for r in range(int(rule.max()) + 1)])
