"""Product atoms: codes, reconstructions and ties by hand."""

import importlib
from types import SimpleNamespace

import pytest
import torch

from tests.experiments.test_experiments import FOLDER

SHAPES = {"up": (3, 2), "down": (2, 3)}


@pytest.fixture
def module(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("product_atoms")


def test_codes_are_products_and_rebuild_what_they_were_made_of(module):
    atoms = module.ProductAtoms(SHAPES, 2, seed=0)
    with torch.no_grad():
        for side in (atoms.encoder, atoms.decoder):
            for factor in side:  # unit vectors that are orthogonal: codes are then coordinates
                factor.copy_(torch.eye(2, factor.shape[1]))
    flat = torch.arange(12.0).view(1, 12)
    codes = atoms.coefficients(flat)
    up, down = torch.arange(6.0).view(3, 2), torch.arange(6.0, 12.0).view(2, 3)
    expected = torch.cat([up[:2, :2].flatten(), down[:2, :2].flatten()])
    assert torch.equal(codes[0], expected)
    # Of the two largest codes of the row the reconstruction is these entries.
    rebuilt, kept = atoms(flat, 2.0)
    assert kept.nonzero()[:, 1].tolist() == [6, 7]
    assert rebuilt[0, 6:].tolist() == [0, 0, 0, 9, 10, 0]


def test_an_atom_is_tied_to_what_it_is_active_with(module):
    # Atoms 0 and 5 (of the second tensor) go together, the latter twice as much; 4 is alone.
    codes = torch.zeros(6, 8)
    codes[:3, 0], codes[:3, 5] = 1.0, 2.0
    codes[4, 4] = 3.0
    used, partners, shares = module.ties(codes.to_sparse(), 2)
    assert used.tolist() == [0, 4, 5]
    assert partners[0].tolist() == [0, 5]
    assert shares[0].tolist() == [1.0, 2.0]
    assert partners[2].tolist() == [0, 5]
    assert shares[2].tolist() == [0.5, 1.0]


def test_cosines_are_those_of_the_directions_in_full(module):
    atoms = module.ProductAtoms(SHAPES, 2, seed=0)
    rules = torch.nn.functional.normalize(torch.randn(3, 12), dim=1)
    partners, shares = torch.tensor([[1, 6]]), torch.tensor([[1.0, -0.5]])
    source = SimpleNamespace(geometry=SimpleNamespace(metric=None))
    found = module.cosines(atoms, partners, shares, source, rules)
    codes = torch.zeros(1, 8)
    codes[0, 1], codes[0, 6] = 1.0, -0.5
    whole = torch.nn.functional.normalize(atoms.decode(codes), dim=1)
    assert torch.allclose(found[:, 0], (rules @ whole.mT).abs()[:, 0].detach(), atol=1e-6)
