import pytest
import torch
from torch import Tensor, nn

from subscape import Target
from subscape import planted as module
from subscape.planted import Planted, labels_of, mixture, plant

VOCABULARY, LENGTH = 40, 8


class Words(nn.Module):
    """A causal language model with one gated block after a sum over earlier tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, 24)
        self.gate, self.up = nn.Linear(24, 32, bias=False), nn.Linear(24, 32, bias=False)
        self.down = nn.Linear(32, 24, bias=False)
        self.norm = nn.RMSNorm(24)
        self.head = nn.Linear(24, VOCABULARY, bias=False)
        nn.init.normal_(self.head.weight)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        x = x + 0.1 * x.cumsum(1)
        x = x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        return self.head(self.norm(x))


def text(n: int = 400) -> Tensor:
    """Tokens of falling frequency."""
    generator = torch.Generator().manual_seed(0)
    shares = 0.9 ** torch.arange(VOCABULARY)
    drawn = torch.multinomial(shares, n * LENGTH, replacement=True, generator=generator)
    return drawn.view(n, LENGTH)


@pytest.fixture(scope="module")
def base() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Words()


@pytest.fixture(scope="module")
def planted(base: nn.Module) -> Planted:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIDDLING", (2, 20))
        patch.setattr(module, "RAREST", 15)
        return plant(base, text(), ["gate", "up", "down"], n_rules=3, steps=200)


def test_rules_act_and_leave_other_rows_alone(base: nn.Module, planted: Planted):
    assert (planted.probability > 0.9).all()
    assert (planted.before < 0.2).all()
    assert planted.kl < 0.2
    ids = text()
    labels = labels_of(ids, planted.triggers)
    with torch.no_grad():
        now = planted.model(ids).softmax(-1)
    for rule in range(3):
        assert float(now[labels == rule][:, planted.targets[rule]].mean()) > 0.9


def test_every_rule_is_in_its_own_change(base: nn.Module, planted: Planted):
    ids = mixture(text(), planted.triggers, share=0.02).ids
    labels = labels_of(ids, planted.triggers)
    target = Target(base, list(planted.changes))
    for rule in range(3):
        alone = {
            name: target.parameters[name] + change[rule] for name, change in planted.changes.items()
        }
        with torch.no_grad():
            probability = target.outputs(ids, alone).softmax(-1)
        for other in range(3):
            own = probability[labels == other][:, planted.targets[other]].mean()
            assert float(own) > 0.7 if other == rule else float(own) < 0.3


def test_changes_are_of_the_rank_asked_for_and_sum_to_the_difference(
    base: nn.Module, planted: Planted
):
    own, new = dict(base.named_parameters()), dict(planted.model.named_parameters())
    assert list(planted.changes) == ["gate.weight", "up.weight", "down.weight"]
    for name, change in planted.changes.items():
        assert torch.linalg.matrix_rank(change, rtol=1e-5).tolist() == [1, 1, 1]
        torch.testing.assert_close(new[name] - own[name], change.sum(0), rtol=1e-5, atol=1e-6)
    for name in own.keys() - planted.changes.keys():
        assert torch.equal(own[name], new[name])
    flat = planted.directions()
    assert flat.shape == (3, 3 * 24 * 32)
    torch.testing.assert_close(flat.norm(dim=1), torch.ones(3))


def test_the_base_model_stays_as_it_was(base: nn.Module):
    before = {name: p.clone() for name, p in base.named_parameters()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIDDLING", (2, 20))
        patch.setattr(module, "RAREST", 15)
        one, other = (
            plant(base, text(), ["gate", "down"], n_rules=2, rank=2, steps=2, seed=5)
            for _ in range(2)
        )
    for name, p in base.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None
    assert torch.equal(one.triggers, other.triggers)
    assert torch.equal(one.changes["down.weight"], other.changes["down.weight"])
    assert torch.linalg.matrix_rank(one.changes["gate.weight"]).tolist() == [2, 2]


def test_labels_are_exact():
    triggers = torch.tensor([3, 5])
    ids = torch.tensor([[1, 3, 5], [5, 2, 2]])
    assert labels_of(ids, triggers).tolist() == [[-1, 0, 1], [1, -1, -1]]


def test_a_mixture_by_count():
    plain = torch.zeros(100, 10, dtype=torch.long)
    mixed = mixture(plain, torch.tensor([7, 8, 9]), share=0.02, seed=1)
    # 2 % of 1,000 positions for each of three triggers, in 60 windows.
    assert [(mixed.ids == t).sum().item() for t in (7, 8, 9)] == [20, 20, 20]
    assert ((mixed.ids > 0).sum(1) <= 1).all()
    assert torch.equal(mixed.labels, torch.where(mixed.ids > 0, mixed.ids - 7, -1))
    assert (plain == 0).all()
    assert torch.equal(
        mixture(plain, torch.tensor([7]), seed=1).ids, mixture(plain, torch.tensor([7]), seed=1).ids
    )
    with pytest.raises(ValueError, match="^share: expected at most one trigger in each of the 100"):
        mixture(plain, torch.tensor([7, 8, 9]), share=0.05)


def test_what_cannot_be_planted_is_refused(base: nn.Module):
    with pytest.raises(ValueError, match="^tensors: expected matrices; got norm.weight"):
        plant(base, text(), "norm")
    with pytest.raises(ValueError, match="^n_rules: expected a text of at least 46 different"):
        plant(base, text(), "gate")
