from importlib import import_module

import pytest
import torch

import subscape


@pytest.fixture
def run(experiments, text, tmp_path):
    """A decomposition of hardly any steps."""
    return subscape.decompose(
        text.model,
        text.trained[:400],
        parameters="model.layers.2.self_attn",
        divergence="kl",
        rows="token",
        n_subnetworks=12,
        rank=0.25,
        l0=2.0,
        steps=2,
        batch_size=32,
        n_heldout_rows=64,
        progress=False,
    ).save_pretrained(tmp_path / "run")


def test_it_runs_goes_on_and_writes_its_tables(run, monkeypatch, tmp_path, page, capsys):
    steering, steering_methods = map(import_module, ("steering", "steering_methods"))
    for name, value in (("N_OTHERS", 8), ("N_MEANT", 4), ("N_PLAIN", 4)):
        monkeypatch.setattr(steering, name, value)
    for name, value in (("STEPS", 2), ("BATCH", 4), ("HIGH", -6)):
        monkeypatch.setattr(steering_methods, name, value)
    few = ["--behaviours", "2", "--seeds", "1", "--examples", "2", "4"]
    call = [str(run), "--out", str(tmp_path / "out"), *few]
    picture = tmp_path / "curves.png"
    steering.main([*call, "--write", str(page), "--picture", str(picture)])
    first = capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    for method in steering_methods.METHODS.values():
        assert f"| {method.title} |" in text
    assert "2 behaviours, 1 seeds" in text
    assert picture.stat().st_size > 1000
    assert len(list((tmp_path / "out").glob("*.json"))) == 4
    steering.main(call)
    assert capsys.readouterr().out == first


def test_figures_lie_on_straight_lines_between_points(experiments):
    methods = import_module("steering_methods")
    at_damage, at_effect = methods.at_damage, methods.at_effect
    names = ("effect", "elsewhere", "meant", "entropy")
    points = [
        {"size": size, **dict(zip(names, values, strict=True))}
        for size, values in ((1, (0.2, 0.1, 0.4, 0.0)), (2, (0.6, 0.3, 1.2, 0.2)))
    ]
    at = at_effect(points, 0.4)
    assert at == pytest.approx({"effect": 0.4, "elsewhere": 0.2, "meant": 0.8, "entropy": 0.1})
    first = at_effect(points, 0.1)
    assert first == pytest.approx({"effect": 0.1, "elsewhere": 0.05, "meant": 0.2, "entropy": 0.0})
    assert at_effect(points, 0.7) is None
    damage = at_damage(points, 0.2)
    assert damage == at


def test_rows_meant_are_those_before_the_tokens(experiments):
    ids = torch.tensor([[5, 1, 2, 1], [1, 5, 5, 5]])
    meant = import_module("steering")._next_is(ids, torch.tensor([1, 2]))
    assert meant.tolist() == [[True, True, True, False], [False, False, False, False]]
