"""The second half of the demonstration: a small classifier of real images, trained on the spot."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor, nn

from subscape._io import write_text
from subscape.demo.folder import demo_folder
from subscape.measures import Measures
from subscape.measures.measure import measure
from subscape.report import write_report
from subscape.reproduce.digits import load_digits
from subscape.rows import generator_of
from subscape.subnetworks.decomposition import Decomposition
from subscape.training import TrainingConfig
from subscape.training.decompose import decompose

TRAINING = TrainingConfig(
    n_subnetworks=20, rank=0.5, active_fraction=0.1, steps=1_000, batch_size=128
)
N_HELDOUT = 360
EPOCHS = 40


@dataclass(frozen=True)
class DigitsResult:
    """What was found in the classifier of digits."""

    decomposition: Decomposition
    """The decomposition."""
    measures: Measures
    """Its measures on all images."""
    accuracy: float
    """Of the classifier, on images it was not trained on."""
    report: Path
    """The report."""

    @property
    def figures(self) -> dict[str, Any]:
        """All numbers that are printed."""
        metrics = self.decomposition.metrics
        return {
            "accuracy": self.accuracy,
            **{name: metrics[name] for name in ("fvu", "l0", "dead")},
            "baselines": [asdict(b) for b in self.measures.quality.baselines],
            "classes": self.classes(),
        }

    def classes(self) -> list[dict[str, Any]]:
        """For every subnetwork that matters somewhere, the classes of its top images."""
        kept = self.measures.samples
        label = dict(zip(kept["index"].tolist(), kept["labels"].tolist(), strict=True))
        found = []
        for entry in sorted(self.measures, key=lambda entry: -entry.impact):
            classes = [label[row.sample] for row in entry.top_samples]
            if entry.active_rate > 0 and classes:
                ((most, n),) = Counter(sorted(classes)).most_common(1)
                found.append({
                    "subnetwork": entry.index,
                    "active_rate": entry.active_rate,
                    "class": most,
                    "share": n / len(classes),
                    "impact": entry.impact,
                })
        return found

    def text(self) -> str:
        """The result in words."""
        f = self.figures
        rows = [
            f"  subnetwork {c['subnetwork']:>2}: active in {c['active_rate']:>5.1%} of images; "
            f"{c['share']:.0%} of its top images are a {c['class']}"
            for c in f["classes"][:8]
        ]
        return "\n".join([
            "",
            "A small convolutional network has learned to read handwritten digits "
            f"({f['accuracy']:.1%} right on images not trained on).",
            "Of its subnetworks, those with the largest impact:",
            "",
            *rows,
            "",
            f"  FVU on rows not trained on  {f['fvu']:.3f} at L0 {f['l0']:.2f}",
            *[f"  {b['name']}: FVU {b['fvu']:.3f} at L0 {b['l0']:.2f}" for b in f["baselines"]],
            "",
            f"Report    {self.report}",
        ])


def run_digits(out: Path, seed: int = 0, *, progress: bool = True) -> DigitsResult:
    """Train a classifier of scikit-learn's digits, decompose it, measure it, and write a report into `out`."""
    every, labels = _shuffled(seed)
    train, heldout = every[N_HELDOUT:], every[:N_HELDOUT]
    net = train_classifier(train, labels[N_HELDOUT:], seed)
    with torch.no_grad():
        accuracy = (net(heldout).argmax(1) == labels[:N_HELDOUT]).float().mean().item()
    with demo_folder(out) as folder:
        shared = {"progress": progress, "seed": seed}
        found = decompose(
            net, train, heldout=heldout, divergence="kl", config=TRAINING, out=folder, **shared
        )
        names = {"labels": labels, "output_names": lambda i: f"digit {i}"}
        measures = measure(found, net, every, out=folder / "measures", **names, **shared)
        title = "Handwritten digits · small convolutional network"
        write_report(folder / "report.html", found, measures, title=title, model=net)
        if seed == 0:  # what `model` and `images` give
            named = {"model": f"{__name__}:model", "data": f"{__name__}:images"}
            write_text(folder / "run.toml", tomli_w.dumps(named))
    return DigitsResult(found, measures, accuracy, out / "report.html")


def images() -> Tensor:
    """The images of the demonstration with seed 0, [image, 1, 8, 8]: held out ones first."""
    return _shuffled(0)[0]


def model() -> nn.Module:
    """Its classifier, trained once more, which takes some seconds."""
    every, labels = _shuffled(0)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as then: others would add numbers in another order
    try:
        return train_classifier(every[N_HELDOUT:], labels[N_HELDOUT:], 0)
    finally:
        torch.set_num_threads(n_threads)


def _shuffled(seed: int) -> tuple[Tensor, Tensor]:
    """Images and labels in the order of a seed."""
    every, labels = load_digits()
    order = torch.randperm(len(every), generator=generator_of(seed, 20))
    return every.view(-1, 1, 8, 8)[order], labels[order]


def classifier() -> nn.Module:
    """An untrained network for 8 × 8 images: two convolutions and a linear layer, 1,898 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def train_classifier(images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """A classifier in eval mode, trained on images [sample, 1, 8, 8] and a class of each."""
    generator = generator_of(seed, 21)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        model = classifier()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(images), generator=generator).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[index]), labels[index]).backward()
            optimiser.step()
    return model.eval()
