"""Every public object says in a line what it is, and a notebook shows it short and escaped."""

import inspect

import jaxtyping
import pytest
import torch
from torch import nn

import subscape
from subscape.planted import Mixture, Planted
from subscape.scorecard.config import SECTIONS
from subscape.toys import Truth

LONGEST = 450
"""Characters of a repr: settings are their fields, everything else is far shorter."""
PLAIN = {"TrainingConfig", "MeasureConfig", "ScoreConfig", "FinetuneConfig", "SteeredModel"}
"""Settings and modules: shown by their repr alone."""


class Odd(nn.Sequential):
    """A model whose parameters' names are no HTML."""


@pytest.fixture(scope="module")
def everything():
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        patch.setattr("subscape.gradients.source.METRIC_ROWS", 32)
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        torch.manual_seed(1)
        model = Odd()
        model.add_module("<i>", nn.Linear(4, 3))
        inputs = torch.rand(40, 4)
        sizes = dict(n_subnetworks=3, rank=1, steps=2, batch_size=8, n_heldout_rows=8)
        found = subscape.decompose(model, inputs, divergence="kl", progress=False, **sizes)
        few = dict(n_rows=20, n_references=1, n_top=2, n_others=4, n_deltas=2, n_partners=1)
        measures = subscape.measure(found, model, inputs, progress=False, **few)
        source = found.source(model, inputs)
        apart = subscape.contrast(found, model, inputs[:20], inputs[20:] + 1)
        card = subscape.score(
            *(found, model, inputs),
            leave_out=tuple({*SECTIONS} - {"loudness"}),
            n_rows=16,
            progress=False,
        )
        tuned = subscape.finetune(
            *(found, model, (inputs, torch.zeros(40, dtype=torch.long)), "cross-entropy"),
            steps=2,
            progress=False,
        )
        removal = subscape.remove(
            *(found, model, 0, inputs, lambda outputs, batch: outputs.softmax(-1)[:, 0]),
            others=inputs,
        )
        configs = (subscape.TrainingConfig(), subscape.MeasureConfig(), subscape.ScoreConfig())
        ids, labels = torch.zeros(5, 3, dtype=torch.long), torch.full((5, 3), -1)
        rules = dict(triggers=torch.arange(2), targets=torch.arange(2), changes={})
        chances = dict(probability=torch.ones(2), before=torch.zeros(2), kl=0.125)
        return [
            *(found, found[0], found.edit(model, {0: 0.1}), found.evaluate(model, inputs)),
            *(found.decoder, found.geometry, found.target_in(model), source),
            source.gradients(source.rows(0, 8)),
            *(measures, measures[0], apart, card, tuned, removal),
            subscape.compare(found, found, model, inputs),
            subscape.prepare(model, inputs, **sizes),
            subscape.estimate(source, subscape.TrainingConfig(n_subnetworks=3, rank=1)),
            subscape.SteeredModel(found, model),
            *(subscape.FixedOutput(torch.zeros(300)), subscape.Pairs(torch.zeros(40, 300))),
            *(*configs, subscape.FinetuneConfig()),
            *(Planted(model, **rules, **chances), Mixture(ids, labels)),
            Truth(torch.zeros(5, 900), torch.ones(5)),
        ]


def test_every_public_class_is_tried(everything):
    public = {n for n in subscape.__all__ if inspect.isclass(getattr(subscape, n))}
    assert public <= {type(thing).__name__ for thing in everything}


def test_a_repr_is_short_and_no_address(everything):
    for thing in everything:
        shown = repr(thing)
        assert len(shown) <= LONGEST and " object at 0x" not in shown, shown[:200]


def test_public_objects_show_themselves_in_a_notebook(everything):
    for thing in everything:
        if type(thing).__name__ not in {*subscape.__all__} - PLAIN:
            continue
        html = thing._repr_html_()
        assert html.startswith("<pre>") and len(html) < 10_000, type(thing)
        assert "<i>" not in html, type(thing)


def test_what_they_say(everything):
    said = {type(thing).__name__: repr(thing) for thing in everything}
    assert said["Edit"] == "Edit(2 tensors of Odd, not applied)"
    assert said["Pairs"] == "Pairs(40 × 300 outputs)"
    assert said["GradientSource"] == (
        "GradientSource(40 sample rows of Target(Odd, 2 tensors with 15 parameters), kl)"
    )
    assert said["Prepared"].startswith("Prepared(3 subnetworks, 2 steps on GradientSource(36 ")
    assert said["Stack"] == "Stack(3 directions over 2 tensors)"
    assert said["DenseRowGradients"] == "DenseRowGradients(8 rows over 2 tensors)"
    assert said["Planted"] == "Planted(2 rules in Odd, KL elsewhere 0.12)"
    assert said["Mixture"] == "Mixture(5 windows, 0 of them with a trigger)"
    assert "3 subnetworks of Odd move" in said["SteeredModel"]
    assert said["Truth"] == "Truth(5 directions)"
