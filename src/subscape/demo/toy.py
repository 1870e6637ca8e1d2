"""The first half of the demonstration: a toy of superposition, held against its known circuits."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from subscape._io import read_json, write_json
from subscape.demo.folder import demo_folder
from subscape.gradients import GradientSource
from subscape.measures.measure import measure
from subscape.measures.oracle import oracle, pca_fvu
from subscape.measures.recovery import Recovery, absolute_cosines
from subscape.report import draw_toy_decomposition, write_report
from subscape.reproduce.recipes import reproduction
from subscape.reproduce.toys import compared_with_truth
from subscape.rows import generator_of
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Target
from subscape.toys import tms
from subscape.training.decompose import decompose

STEPS = 4_000
N_RESTARTS = 8
CAPTION = (
    "Edges are weights, top nodes biases; blue is positive, red negative. Below, how near each comes to a true "
    "subnetwork, and the FVU of single batches."
)


@dataclass(frozen=True)
class ToyResult:
    """What was found in the toy."""

    decomposition: Decomposition
    """The decomposition of the toy."""
    recovered: Recovery
    """Its comparison with the true subnetworks."""
    figures: dict[str, Any]
    """All numbers that are printed."""
    out: Path
    """The run folder."""

    def _outcome(self) -> str:
        n, found = self.figures["truths"], self.figures["matched"]
        if self.recovered.success:
            return "it turns out to be\nmade of one subnetwork per feature:"
        return f"it gives away {found} of its\n{n} features; the others are merged or split:"

    def text(self) -> str:
        """The result in words."""
        f = self.figures
        rows = [
            f"  feature {j}: subnetwork {k}, |cosine| {c:.3f}, active in {f['active_rate'][k]:.1%} of rows"
            for j, (k, c) in enumerate(zip(f["index"], f["cosine"], strict=True))
        ]
        return "\n".join([
            "",
            "A network with 5 inputs, 2 hidden units and 5 outputs has learned to pass on sparse inputs.",
            f"Decomposed into {len(self.decomposition)} directions in parameter space, {self._outcome()}",
            "",
            *rows,
            "",
            f"  FVU on rows not trained on  {f['fvu']:.3f} at L0 {f['l0']:.2f}",
            f"  the true subnetworks reach  {f['fvu_oracle']:.3f} at the same L0 (oracle)",
            f"  one direction for all rows  {f['fvu_pca']:.3f} (PCA, L0 1)",
            f"  true subnetworks found      {f['matched']} of {f['truths']}",
            "",
            f"Picture   {self.out / 'subnetworks.png'}",
            f"Report    {self.out / 'report.html'}",
            f"Run       {self.out}  (decomposition in final/, measures/, metrics.jsonl, demo.json)",
        ])


def run_toy(out: Path, seed: int = 0, *, progress: bool = True) -> ToyResult:
    """Train TMS 5-2, decompose it, compare, draw, and write a report into `out`."""
    what = reproduction("tms")
    toy = tms(seed)
    target = Target(toy.model)
    inputs = toy.sample(what.n_samples, generator_of(seed, 7, 0))
    fresh = toy.sample(2_000, generator_of(seed, 7, 1))
    config = replace(what.training, steps=STEPS, n_restarts=N_RESTARTS, seed=seed)
    with demo_folder(out) as folder:
        # The paper's own toy, whose true subnetworks are known for the published choices.
        shared = {"recipe": "published", "progress": progress}
        found = decompose(target, inputs, heldout=fresh, config=config, out=folder, **shared)
        truth, _, compared = compared_with_truth(toy, found, what.divergence)
        rate = found.metrics["active_rate"]
        heldout = GradientSource(target, fresh, seed=seed + 1)
        gradients = heldout.gradients(heldout.rows(0, len(heldout))).flat
        l0 = found.metrics["l0"]
        figures = {
            "fvu": found.metrics["fvu"],
            "l0": l0,
            "fvu_oracle": oracle(gradients, truth.directions, l0).fvu,
            "fvu_pca": pca_fvu(gradients, 1),
            "matched": compared.n_matched,
            "truths": compared.n_truths,
            "cosine": compared.cosine.tolist(),
            "index": compared.index.tolist(),
            "active_rate": rate,
        }
        cosines = absolute_cosines(truth.directions, found.decoder.flat())
        history = _history(folder)
        picture = folder / "subnetworks.png"
        title = "TMS 5-2-5: the subnetworks found; weights as edges, biases as top nodes, blue + and red −"
        draw_toy_decomposition(picture, found.decoder.dense(), cosines, rate, history, title)
        write_json(
            folder / "demo.json", figures | {"cosines": cosines.tolist(), "history": history}
        )
        settings = {"output_names": lambda i: f"output {i}", "progress": progress, "seed": seed}
        measures = measure(found, target, fresh, out=folder / "measures", change=1.0, **settings)
        title = "TMS 5-2-5: a toy of superposition"
        figure = ("The subnetworks found", CAPTION, picture)
        write_report(
            folder / "report.html", found, measures, title=title, figures=[figure], overwrite=True
        )
    return ToyResult(found, compared, figures, out)


def _history(out: Path) -> list[tuple[int, float]]:
    best = read_json(out / "final" / "config.json")["metrics"]["restart"]
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [(m["step"], m["fvu"][best]) for m in map(json.loads, lines)]
