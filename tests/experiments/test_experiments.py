"""Every experiment in a tiny setting: it measures, resumes, shows its table and draws its picture."""

import importlib
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch

from subscape._io import write_tensors
from subscape.toys import training

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

FEWER = {
    "completeness": {"N_HELDOUT": 200},
    "contrastive": {"N_PAIRS": 300, "N_HELDOUT": 200},
    "radius": {"N_TOP": 2, "N_PUSHED": 2},
    "scaffolding": {"N_SAMPLES": 1100, "N_HELDOUT": 200},
    "squared_paths": {"N_HELDOUT": 200},
    "synthetic": {"N_ROWS": 400, "N_HELDOUT": 200},
    "transfer": {"N_WINDOWS": 100},
}
"""Constants of an experiment's module that its settings do not reach."""


@pytest.fixture
def run(monkeypatch, tmp_path, unchecked):
    """From the name of an experiment and its settings to its records; measured, then once more from its files."""
    monkeypatch.syspath_prepend(str(FOLDER))
    fit = training._fit

    def short(recipe, free, x, y, how):
        return fit(recipe, free, x, y, replace(how, n_steps=min(how.n_steps, 100)))

    monkeypatch.setattr(training, "_fit", short)
    for name, few in (("METRIC_ROWS", 256), ("MEAN_SAMPLES", 64)):
        monkeypatch.setattr(f"subscape.gradients.source.{name}", few)
    for name, few in (("MOST_ROUNDS", 2), ("MOST_ROWS", 256)):
        monkeypatch.setattr(f"subscape.training.clusters.{name}", few)
    before = set(sys.modules)

    def tiny(name, settings):
        module, page = importlib.import_module(name), importlib.import_module("page")
        for constant, value in FEWER.get(name, {}).items():
            monkeypatch.setattr(module, constant, value)
        records = module.measure(tmp_path / name, **settings)
        assert records
        text = page.table(records, module.COLUMNS)
        assert len(text.splitlines()) == len(records) + 2
        module.picture(tmp_path / "picture.png", records)
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
        written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")}
        assert written
        assert page.table(module.measure(tmp_path / name, **settings), module.COLUMNS) == text
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")} == written
        return records

    yield tiny
    # Other tests have modules of these names too.
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("name", TOYS)
def test_on_toys(run, name):
    run(name, TOYS[name])


@pytest.fixture
def tiny_text(run, monkeypatch):
    """A language model with random weights in the place of the real one, and random tokens."""
    transformers = pytest.importorskip("transformers")
    measures = importlib.import_module("geometry_measures")
    sizes = {"hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 4, "vocab_size": 200}
    sizes["initializer_range"] = 0.7  # outputs that can be moved by a tenth of a nat
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=32)
    model = transformers.LlamaForCausalLM(config).eval()
    trained, held = (torch.randint(0, 180, (n, 16)) for n in (400, 300))
    text = measures.Text(model, [f"w{i}" for i in range(200)], trained, held)
    monkeypatch.setattr(measures.Text, "load", lambda: text)
    monkeypatch.setattr(measures, "plant", partial(measures.plant, steps=2))
    monkeypatch.setitem(importlib.import_module("stories").OPTIONS, "n_subnetworks", 8)
    monkeypatch.setitem(importlib.import_module("planting").OPTIONS, "n_subnetworks", 8)
    return text


@pytest.mark.parametrize("name", TEXT)
def test_on_text(run, tiny_text, name):
    run(name, TEXT[name])


@pytest.mark.parametrize(
    ("setting", "parts", "columns"),
    [
        ("published", ("attention",), ("agree", "distinct, random", "stable", "FVU")),
        ("unit-kronecker-few", ("planted", "base"), ("found", "cosine", "plants in base")),
    ],
)
def test_geometry(run, tiny_text, tmp_path, monkeypatch, setting, parts, columns):
    geometry, measures = (importlib.import_module(n) for n in ("geometry", "geometry_measures"))
    for constant, few in (("N_AGREE", 320), ("N_DRAWS", 2), ("N_PUSHED", 2), ("N_WINDOWS", 16)):
        monkeypatch.setattr(measures, constant, few)
    few = geometry.SETTINGS[setting] | {"n_subnetworks": 6, "l0": 2.0}
    monkeypatch.setitem(geometry.SETTINGS, setting, few)
    arguments = SimpleNamespace(seeds=1, plants=1, steps=2, parts=parts)
    results = {setting: geometry.measured(tmp_path, setting, tiny_text, arguments)}
    head, _, line = geometry.table(results, arguments.steps).splitlines()
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert all(cells[column] for column in columns)
    assert geometry.measured(tmp_path, setting, tiny_text, arguments) == results[setting]


def test_image_classes(run, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    classes = importlib.import_module("image_classes")
    layers = [torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(8, 10)).eval()
    trained, held = torch.randn(90, 6), torch.randn(60, 6)
    options = {"n_subnetworks": 5, "rank": 1, "batch_size": 16, "steps": 2}
    data = classes.Images(network, "2", trained, held, torch.arange(60) % 10, options)
    monkeypatch.setattr(classes, "N_PUSHED", 2)
    name = "whitened, L0 2"
    own = classes.figures(data, name, tmp_path)
    (line,) = classes.table({name: own}).splitlines()[2:]
    assert line.startswith(f"| {name} | ")
    with torch.no_grad():
        assert own["channels"] == classes.by_class(network[:3](held), data.classes)


def test_paper_figures(run, tmp_path, monkeypatch):
    figures, drawings = (importlib.import_module(n) for n in ("paper_figures", "paper_drawings"))
    monkeypatch.setattr(figures, "N_ROWS", 200)
    squared, tmcs = (figures.Decomposed(name, 0, 5) for name in ("squared", "tmcs"))
    assert -1 in squared.compared.index  # so short a run has nothing for some circuits
    records = {
        "networks": figures.drawn_networks(squared),
        "interventions": figures.over_inputs(squared, ["!layers.4.*"], 0.15),
        "coefficients": figures.mixing_coefficients(tmcs),
    }
    for name, record in records.items():
        if "subnetworks" in record:  # many panels take long
            record["subnetworks"] = record["subnetworks"][:2]
        path = drawings.write_figure(tmp_path, name, record, getattr(drawings, name))
        assert path.read_bytes().startswith(b"\x89PNG")
    assert figures.pair_grid(squared, 0.5)["change"][2][2] == 0
    found = figures.selectivities(squared, ["*"])
    assert len(found["subnetworks"]) == int((squared.compared.index >= 0).sum())


def test_interaction_basis_of_mlps(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER / "interaction_basis"))
    cifar, path = (importlib.import_module(name) for name in ("cifar_mlp", "along_the_path"))
    images, page = tmp_path / "images.npz", tmp_path / "page.md"
    pixels = numpy.random.default_rng(0).integers(0, 256, (80, 32, 32, 3), dtype=numpy.uint8)
    numpy.savez(images, images=pixels, labels=numpy.arange(80) % 10)
    marks = "<!-- cifar -->\n<!-- end of cifar -->\n<!-- path -->\n<!-- end of path -->\n"
    page.write_text(marks, encoding="utf-8")

    def command(module, **flags):
        flags |= {"out": tmp_path / module.__name__, "write": page}
        words = (word for flag, value in flags.items() for word in (f"--{flag}", str(value)))
        monkeypatch.setattr(sys, "argv", [module.__name__, *words])
        module.main()

    command(cifar, images=images, size=2, hidden=4, epochs=1)
    monkeypatch.setattr(
        path, "modular_addition_task", lambda _: cifar.task_of(images, size=2, hidden=4, epochs=1)
    )
    command(path, data=tmp_path, points=2)
    lines = page.read_text(encoding="utf-8").splitlines()
    starts = [line.split(" | ")[0] for line in lines if line.startswith("| ")]
    sections = ["| 0 → 2", "| 2 → 4", "| 4 → output", "| all"]
    assert [s for s in starts if "→" in s or s == "| all"] == sections
    assert starts[-1] == "| integrated, 2 points"


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
