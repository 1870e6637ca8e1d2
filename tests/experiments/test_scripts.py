"""Experiments with a command of their own, in a tiny setting: that they measure, and show what they measured."""

import json
import sys
from collections import OrderedDict
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch

from subscape.scorecard import Scorecard, ScoreConfig
from subscape.scorecard.record import FOLDER as SCORECARD
from subscape.scorecard.record import FORMAT, Column, left_out, line, section

FOLDER = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize(
    ("setting", "parts", "columns"),
    [
        ("published", ("attention",), ("agree", "distinct, random", "stable", "FVU")),
        ("unit-kronecker-few", ("planted", "base"), ("found", "cosine", "plants in base")),
    ],
)
def test_geometry(run, tiny_text, tmp_path, monkeypatch, setting, parts, columns):
    geometry, measures = (import_module(n) for n in ("geometry", "geometry_measures"))
    for constant, few in (("N_AGREE", 320), ("N_DRAWS", 2), ("N_PUSHED", 2), ("N_WINDOWS", 16)):
        monkeypatch.setattr(measures, constant, few)
    few = geometry.SETTINGS[setting] | {"n_subnetworks": 6, "l0": 2.0}
    monkeypatch.setitem(geometry.SETTINGS, setting, few)
    arguments = SimpleNamespace(seeds=1, plants=1, steps=2, parts=parts)
    results = {setting: geometry.measured(tmp_path, setting, tiny_text, arguments)}
    head, _, below = geometry.table(results, arguments.steps).splitlines()
    cells = dict(zip(head.split(" | "), below.split(" | "), strict=True))
    assert all(cells[column] for column in columns)
    assert geometry.measured(tmp_path, setting, tiny_text, arguments) == results[setting]


def test_geometry_shows_nothing_where_no_push_moved_its_rows(run):
    pytest.importorskip("transformers")
    geometry = import_module("geometry")
    none = dict.fromkeys(("ratio", "auroc", "share"), None) | {"pushed": 0}
    some = {"ratio": 2.0, "auroc": 0.75, "share": 0.5, "pushed": 1}
    assert geometry._shown([none], "{}") == geometry._shown([None], "{:.0f}") == ""
    assert geometry._shown([none, some], "{}") == "2.0; 0.75; 50%"
    assert geometry._shown([None, 3.0], "{:.0f}") == "3"


def test_token_agreement(run, tiny_text, tmp_path, monkeypatch, capsys):
    tokens, measures = (import_module(n) for n in ("token_agreement", "geometry_measures"))
    ids, texts = tiny_text.held, tiny_text.texts
    options = {
        "parameters": measures.ATTENTION,
        "n_subnetworks": 4,
        "l0": 2.0,
        "rank": 1,
        "steps": 2,
    }
    measures.decomposed(tmp_path, tiny_text.model, tiny_text.trained, ids, 0, options)

    class Tokenizer(list):
        convert_ids_to_tokens = list.__getitem__

    loaded = {
        "load_tokenizer": lambda _: Tokenizer(texts),
        "load_data": lambda *_: {"input_ids": ids},
        "load_model": lambda _: SimpleNamespace(model=tiny_text.model),
    }
    for name, load in loaded.items():
        monkeypatch.setattr(tokens, name, load)
    command = "token_agreement RUN --model MODEL --data DATA --n-rows 160"
    monkeypatch.setattr(sys, "argv", command.replace("RUN", str(tmp_path)).split())
    tokens.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed["n_subnetworks"] == 4
    for kind in ("subnetworks", "random directions", "shuffled"):
        assert 1 <= printed[kind]["any of the three"]["mean_largest_group"] <= tokens.N_TOP


def test_scorecards(run, tmp_path, monkeypatch, capsys):
    scorecards = import_module("scorecards")
    columns = (Column("by its encoder", "low"), Column("best codes", "low"))
    lines = (line("subnetworks", 0.5, 0.25, ours=True), line("random", None, 0.75))
    sections = [left_out(key, "as asked") for key in scorecards.HEADLINES]
    sections[0] = section("reconstruction", columns, lines, ["A note."])
    assert scorecards.drawn(sections[0]) == (
        "best codes ↓",
        [("subnetworks", 0.25, True), ("random", 0.75, False)],
    )
    card = Scorecard(FORMAT, "0", "", "", {}, ScoreConfig(), 4, "sample", "mse", "", 64, 32)
    replace(card, sections=tuple(sections)).save(tmp_path / "a" / SCORECARD)
    page, figure = tmp_path / "page.md", tmp_path / "figure.png"
    page.write_text("<!-- tables -->\n<!-- end of tables -->\n", encoding="utf-8")
    command = ["scorecards", tmp_path / "a", "--figure", figure, "--write", page]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    scorecards.main()
    assert figure.read_bytes().startswith(b"\x89PNG")
    table = (
        "| | by its encoder ↓ | best codes ↓ |\n|---|---|---|\n| **subnetworks** | 0.5 | 0.25 |\n"
    )
    assert f"{table}| random | – | 0.75 |\n\nA note.\n" in page.read_text(encoding="utf-8")


def test_image_classes(run, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    classes = import_module("image_classes")
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


def test_planted_images(run, monkeypatch):
    resnet20, planting = import_module("resnet20"), import_module("image_planting")
    experiment = import_module("planted_images")
    monkeypatch.setitem(experiment.OPTIONS, "batch_size", 16)
    monkeypatch.setitem(experiment.SETTINGS, "tiny", (0.05, {"n_subnetworks": 4, "l0": 1}))
    monkeypatch.setattr(planting, "N_TRAINED", 40)
    layers = {
        "first": torch.nn.Conv2d(3, 8, 3),
        "conv1": torch.nn.Conv2d(8, 8, 3, padding=1, bias=False),
        "relu": torch.nn.ReLU(),
        "conv2": torch.nn.Conv2d(8, 8, 3, padding=1, bias=False),
        "pool": torch.nn.AdaptiveAvgPool2d(1),
        "flat": torch.nn.Flatten(),
        "linear": torch.nn.Linear(8, 10),
    }
    network = torch.nn.Sequential()
    network.append(torch.nn.Sequential(OrderedDict(layers)))
    images, classes = torch.randn(70, 3, 8, 8), torch.arange(70) % 10
    for name, value in (("model", network.eval()), ("images", images), ("labels", classes)):
        monkeypatch.setattr(resnet20, name, lambda value=value: value)
    settings = {"sets": 1, "steps": 2, "block": "0", "plant_steps": 2, "settings": ("tiny",)}
    planted, base = run("planted_images", settings)
    assert planted["rules"] == base["rules"] == planting.N_RULES
    assert planted["reach"] == base["reach"]


def test_images_planted_differ_in_the_pattern_of_their_rule_alone(run):
    planting = import_module("image_planting")
    rules, plain = planting.Rules.draw(0), torch.randn(40, 3, 8, 8)
    mixed = planting.Mixture.of(plain, torch.zeros(40), rules, 0.1, 0)
    assert [int((mixed.rule == rule).sum()) for rule in (-1, 0, 1, 2)] == [28, 4, 4, 4]
    size, with_rule = planting.SIZE, mixed.rule >= 0
    corner = mixed.images[with_rule][:, :, -size:, -size:]
    assert torch.equal(corner, rules.patterns[mixed.rule[with_rule]])
    changed = (mixed.images != plain).any(1)
    assert int(changed.sum()) == int(with_rule.sum()) * size**2
    assert not changed[~with_rule].any()


def test_taking_a_rule_away_by_hand(run):
    experiment, planting = (import_module(n) for n in ("planted_images", "image_planting"))
    # Class 0 has logit w · 1 and the others 0; against the slope w falls until p is a tenth of what it was.
    network = torch.nn.Conv2d(1, 10, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    network.weight.data[0] = 3.0
    ones, zeros = torch.ones(5, 1, 1, 1), torch.zeros(5, 1, 1, 1)
    mixed = planting.Mixture(
        torch.cat([ones, zeros]), torch.tensor([0] * 5 + [-1] * 5), torch.ones(10)
    )
    model = torch.nn.Sequential(network, torch.nn.Flatten())
    rules = planting.Rules(torch.zeros(1), torch.zeros(1, dtype=torch.long))
    change = {"0.weight": torch.zeros(1, 10, 1, 1, 1)}
    own = planting.Bed(model, model, rules, change, mixed, mixed)
    up = torch.eye(10)[0]
    assert experiment.taken_away(own, 0, up, up) == pytest.approx(0.0)  # plain images are 0
    assert experiment.taken_away(own, 0, -up, up) == pytest.approx(0.0)
    other = torch.eye(10)[1]
    # Away from class 1 the probability of class 0 only rises.
    assert experiment.taken_away(own, 0, other, other) == float("inf")


def test_paper_figures(run, tmp_path, monkeypatch):
    figures, drawings = (import_module(n) for n in ("paper_figures", "paper_drawings"))
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
    cifar, path = (import_module(name) for name in ("cifar_mlp", "along_the_path"))
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
