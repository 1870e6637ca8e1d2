"""Every experiment in a tiny setting: it measures, resumes, shows its table and draws its picture."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from subscape._io import write_tensors

SAMPLED = "token sampled from the prediction"
FOLDER = Path(__file__).parents[2] / "experiments"
TOYS = {
    "adversarial": {"seeds": 1, "toy_steps": 20, "n_rows": 1, "steps": 2, "names": ("tms",)},
    "completeness": {"seeds": 1, "steps": 10, "numbers": (5, 10), "stories": ()},
    "curvature": {"seeds": 1, "steps": 10, "names": ("tms",)},
    "how_many": {"seeds": 1, "steps": 5, "toys": ("tms",), "cells": ((1.0, 1.0),)},
    "radius": {"seeds": 1, "steps": 10, "n_samples": 8, "names": ("tms",)},
    "ranks": {"steps": 4, "true": (2,), "fitted": (1, 2, 4, 8, 16)},
    "references": {"seeds": 1, "steps": 5, "plant_seeds": 0, "references": ("mean of all",)},
    "scaffolding": {"seeds": 1, "steps": 4},
    "squared_paths": {"seeds": 1, "target_steps": 2, "steps": 2},
    "synthetic": {"seeds": 1, "steps": 2},
    "tmcs_seeds": {"seeds": 1, "steps": 5, "restarts": 1},
}
TEXT = {
    "adversarial": {"stories_steps": 2, "n_rows": 1, "steps": 2, "names": ("stories260k",)},
    "checkpoints": {"steps": 2, "refit_steps": 2, "n_subnetworks": 6, "checkpoints": (0, 1)},
    "completeness": {"numbers": (), "stories": (6,), "stories_steps": 2, "seeds": 1},
    "contrastive": {"sets": 1, "steps": 3},
    "curvature": {"stories_steps": 2, "n_rows": 4, "names": ("stories260k",)},
    "radius": {"stories_steps": 2, "n_samples": 4, "names": ("stories260k",)},
    "references": {"seeds": 1, "steps": 2, "plant_steps": 2, "references": (SAMPLED,)},
    "selectivity": {"steps": 2, "aims": (1e-6,)},
    "transfer": {
        "steps": 2,
        "n_subnetworks": 6,
        "language_steps": 2,
        "plant_steps": 2,
        "digit_steps": 2,
    },
}


@pytest.mark.parametrize("name", TOYS)
def test_on_toys(run, name):
    run(name, TOYS[name])


@pytest.mark.parametrize("name", TEXT)
def test_on_text(run, tiny_text, name):
    run(name, TEXT[name])


def test_on_modular_addition(run, tmp_path, monkeypatch):
    d, heads, hidden, tokens = 4, 2, 6, 114
    shapes = {
        "embed.W_E": (tokens, d),
        "pos_embed.W_pos": (3, d),
        "unembed.W_U": (d, tokens),
        "unembed.b_U": (tokens,),
        "blocks.0.mlp.W_in": (d, hidden),
        "blocks.0.mlp.b_in": (hidden,),
        "blocks.0.mlp.W_out": (hidden, d),
        "blocks.0.mlp.b_out": (d,),
        **{f"blocks.0.attn.W_{k}": (heads, d, 2) for k in "QKV"},
        **{f"blocks.0.attn.b_{k}": (heads, 2) for k in "QKV"},
        "blocks.0.attn.W_O": (heads, 2, d),
        "blocks.0.attn.b_O": (d,),
    }
    (tmp_path / "rib_modadd").mkdir()
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    write_tensors(tmp_path / "rib_modadd" / "seed0.safetensors", weights)
    monkeypatch.setenv("SUBSCAPE_DATA", str(tmp_path))
    settings = ("logits, published", "hidden layer, whitened")
    run("modular_addition", {"steps": 2, "settings": settings})


def test_the_page_keeps_what_is_not_between_its_marks(run, tmp_path):
    page = importlib.import_module("page")
    path = tmp_path / "page.md"
    path.write_text(
        "before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n<!-- b -->\n<!-- end of b -->\n"
    )
    importlib.import_module("tables").write_into(
        path, "a", page.table([{"n": 2, "f": 0.25}], {"number": "{n}", "share": "{f:.0%}"})
    )
    table = "| number | share |\n| --- | --- |\n| 2 | 25% |"
    expected = (
        f"before\n<!-- a -->\n{table}\n<!-- end of a -->\nafter\n<!-- b -->\n<!-- end of b -->\n"
    )
    assert path.read_text() == expected


def test_what_was_not_measured_is_not_in_the_json(run):
    page = importlib.import_module("page")
    assert page.known({"a": 1.0, "b": float("nan"), "c": "x", "d": [2]}) == {
        "a": 1.0,
        "c": "x",
        "d": [2],
    }


def test_every_table_of_the_page_has_its_command():
    text = (FOLDER.parent / "docs" / "open-questions.md").read_text(encoding="utf-8")
    marks = re.findall(r"^<!-- (?!end of )(.+) -->$", text, re.MULTILINE)
    assert marks
    for mark in marks:
        name = mark.replace("-", "_")
        before, table = text.split(f"<!-- {mark} -->")[0], text.split(f"<!-- {mark} -->\n| ")[1]
        assert f"<!-- end of {mark} -->" in table
        assert f"python experiments/{name}.py --write docs/open-questions.md" in before
        assert (FOLDER / f"{name}.py").is_file()


def test_rows_given_are_the_gradients(run):
    trained = importlib.import_module("trained")
    rows = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0, -1.0, 0.5, 0.0, 0.0, 2.0]])
    source = trained.source_of(rows, {"a": (2, 2), "b": (2,)})
    assert torch.equal(source.gradients(source.rows_of(torch.arange(2))).flat, rows)


def test_one_always_is_in_every_row_and_the_others_are_few(run):
    scaffolding = importlib.import_module("scaffolding")
    selection = scaffolding.OneAlways(1.0, torch.Size([3]), torch.zeros(()))
    coefficients = torch.tensor([[0.1, 3.0, 1.0], [-0.2, 2.0, 0.5]])
    # Two of the others' four are kept, whichever rows they are in.
    assert selection(coefficients).tolist() == [
        pytest.approx([0.1, 3.0, 0.0]),
        pytest.approx([-0.2, 2.0, 0.0]),
    ]


def test_curvature_of_a_parabola_by_hand(run):
    curvature = importlib.import_module("curvature")
    # D = (1 + w)²: g = 2; the linear change 0.5 is at δ = 0.25: (1.5625 + 0.5625 - 2) / 1 = 0.125.
    q = curvature.curvature(
        lambda _, by: (1 + by[0]) ** 2, torch.tensor([[2.0]]), torch.tensor([[3.0]]), 0.5
    )
    assert q.tolist() == pytest.approx([0.125])


def test_ascent_finds_the_best_direction_and_keeps_the_length(run):
    adversarial = importlib.import_module("adversarial")
    seen = []

    def change(c):
        seen.append(float(c.detach().norm()))
        return (c * torch.tensor([1.0, 3.0, 50.0])).square().sum()

    found = adversarial.ascend(change, torch.tensor([1.0, 1.0, 0.0]), 2.0, 80, 0)
    # The third is not allowed; of the others the second moves most: (2 · 3)².
    assert found["chosen"][80] == pytest.approx(36.0, rel=1e-2)
    assert 4.0 < found["random"] < 36.0
    assert seen == pytest.approx([2.0] * len(seen))
