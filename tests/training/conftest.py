"""A model whose subnetworks are known, because its data were made of them, and a small language model."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from subscape import GradientSource, Target, TrainingConfig
from subscape.training import Trainer
from tests.conftest import Made

N_BLOCKS, N_DIRECTIONS, N_ACTIVE = 3, 3, 2


class Blocks(nn.Module):
    """Output b is the inner product of block b of the input with row b of the weights."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return torch.einsum("nbd,bd->nb", x, self.weight)


@dataclass(frozen=True)
class Planted:
    """Every sample holds one of three directions q in each of two of three blocks b.

    With outputs f and reference 0, the squared error's gradient is Σ_b f_b e_b ⊗ (c q): exactly two of
    the nine rank-1 subnetworks e_b ⊗ q. The q of a block are not orthogonal, so that what encodes them
    exactly, their dual basis, is not what decodes them.
    """

    model: Blocks
    data: Tensor
    subnetworks: Tensor
    """Unit rows [subnetwork, parameter]."""
    options: dict
    """What `decompose` needs to find them."""


def plant(seed, n=1000, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def between(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    shape = (N_BLOCKS, N_DIRECTIONS, N_DIRECTIONS)
    q = torch.linalg.qr(normal(*shape)).Q + 0.2 * normal(*shape)
    q = q / q.norm(dim=-1, keepdim=True)
    # Every q has a response of about one, so that none of the subnetworks is negligible.
    weight = torch.linalg.solve(q, between(0.75, 1.25, *shape[:2], 1))[..., 0]
    which = torch.randint(0, N_DIRECTIONS, (n, N_BLOCKS), generator=generator)
    on = torch.rand(n, N_BLOCKS, generator=generator).argsort(1) < N_ACTIVE
    size = between(0.5, 1.5, n, N_BLOCKS) * on
    data = q[torch.arange(N_BLOCKS), which] * size[..., None]
    subnetworks = torch.zeros(N_BLOCKS, N_DIRECTIONS, N_BLOCKS, N_DIRECTIONS, dtype=torch.float64)
    for block in range(N_BLOCKS):
        subnetworks[block, :, block] = q[block]
    options = {
        "divergence": "mse",
        "reference": "uniform",
        "n_subnetworks": N_BLOCKS * N_DIRECTIONS,
        "rank": 1,
        "l0": float(N_ACTIVE),
        "batch_size": 64,
        "learning_rate": 0.05,
        "n_heldout_rows": 100,
        "progress": False,
    }
    model = Blocks(weight).to(dtype)
    return Planted(model, data.to(dtype), subnetworks.flatten(0, 1).flatten(1).to(dtype), options)


@pytest.fixture
def planted():
    return plant(0)


@pytest.fixture
def make_planted():
    return plant


SMALL = TrainingConfig(n_subnetworks=5, rank=1, l0=1.0, steps=40, batch_size=16, n_restarts=2)


def uniform_source(planted, seed=0):
    return GradientSource(Target(planted.model), planted.data, reference="uniform", seed=seed)


def words_source(rows="token", *, n=40, length=3, width=4, seed=0, dtype=torch.float64, **options):
    torch.manual_seed(0)
    model = Made(
        lambda self, ids: self.head(torch.tanh(self.middle(self.table(ids).cumsum(1)))),
        table=nn.Embedding(7, width),
        middle=nn.Linear(width, width),
        head=nn.Linear(width, 7),
    ).to(dtype)
    ids = torch.randint(0, 7, (n, length), generator=torch.Generator().manual_seed(seed))
    given = {"divergence": "kl", "engine": {"*": "auto"}} | options
    return GradientSource(Target(model), ids, rows=rows, seed=seed, **given)


@pytest.fixture(scope="session")
def words():
    """Row gradients of a small language model in which positions see those before."""
    return words_source


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def interrupted(monkeypatch):
    """Run something that is ended before it has done one step more than `steps`."""

    def run(steps, what):
        original = Trainer.step

        def step(self):
            if self.step_number == steps:
                raise Interrupted
            return original(self)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "step", step)
            with pytest.raises(Interrupted):
                what()

    return run
