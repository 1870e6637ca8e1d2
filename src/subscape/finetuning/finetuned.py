"""Learned coefficients, with what they do to held-out rows: a small folder that `edit` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import subscape._version as version
from subscape._checks import problem, require
from subscape._html import Printed
from subscape._io import (
    holds_just,
    json_object,
    new_folder,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from subscape._shapes import Float
from subscape.measures.record import Measures, identity_of
from subscape.subnetworks.decomposition import Decomposition

FORMAT = "subscape-coefficients/1"
CONFIG, TENSORS = "config.json", "coefficients.safetensors"
N_SHOWN = 12
"""Coefficients that are printed, the largest."""


@dataclass(frozen=True, repr=False, eq=False)
class Finetuned(Printed):
    """How far each subnetwork is to be moved, and what that does to samples not learned from."""

    coefficients: Float[Tensor, " subnetwork"]
    """δ_k of all subnetworks, 0 where one stays."""
    decomposition: str
    """Which decomposition they belong to, and so which model."""
    loss: str
    """Name of the loss."""
    loss_before: float
    """On held-out samples, of the original model."""
    loss_after: float
    """On held-out samples."""
    moved: float
    """Mean divergence of held-out rows' outputs from the original model's."""
    moved_others: float | None
    """The same on held-out samples of `others`; None without them."""
    unit: str
    """Of the divergence."""
    steps: int
    """Steps after which held-out samples did best."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How they were learned."""

    @property
    def deltas(self) -> dict[int, float]:
        """δ_k of the subnetworks that move, as `Decomposition.edit` takes them."""
        moving = self.coefficients.nonzero()[:, 0].tolist()
        return {k: float(self.coefficients[k]) for k in moving}

    def __repr__(self) -> str:
        return (
            f"Finetuned({len(self.deltas)} of {len(self.coefficients)} subnetworks move, "
            f"held-out loss {self.loss_before:.4g} → {self.loss_after:.4g})"
        )

    def __str__(self) -> str:
        largest = sorted(self.deltas.items(), key=lambda item: -abs(item[1]))
        others = [] if self.moved_others is None else [("of the others", self.moved_others)]
        lines = [
            f"held-out loss ({self.loss})  {self.loss_before:.4g} → {self.loss_after:.4g}",
            *(
                f"outputs {whose} moved by {size:.3g} {self.unit} a row"
                for whose, size in [("of held-out samples", self.moved), *others]
            ),
            f"{len(largest)} of {len(self.coefficients)} subnetworks move, after {self.steps} steps",
            *(f"{k:>8}  {delta:+.4f}" for k, delta in largest[:N_SHOWN]),
        ]
        more = len(largest) - N_SHOWN
        if more > 0:
            lines.append(f"{'…':>8}  {more} smaller ones")
        if not largest:
            lines.append("No step did held-out samples good: the model is kept as it was.")
        return "\n".join(lines)

    def verify(self, found: Decomposition) -> None:
        """Refuse a decomposition that the coefficients were not learned for."""
        require(
            self.decomposition == identity_of(found),
            "coefficients",
            f"those of this decomposition of {len(found)} subnetworks",
            f"those of another one of {len(self.coefficients)}",
            "Give the decomposition that they were learned for, or learn them again.",
        )

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = True) -> Path:
        """Write a few kB to a new or empty folder, or over coefficients; never over anything else."""
        index = self.coefficients.nonzero()[:, 0]
        tensors = {"index": index.int(), "coefficients": self.coefficients[index].cpu()}
        others = [f.name for f in fields(self) if f.name != "coefficients"]
        config = {
            "format": FORMAT,
            "subscape_version": version.__version__,
            "n_subnetworks": len(self.coefficients),
            **{name: getattr(self, name) for name in others},
            "settings": dict(self.settings),
        }
        with new_folder(folder, overwrite=overwrite, owned=is_finetuned) as temporary:
            write_json(temporary / CONFIG, config)
            write_tensors(temporary / TENSORS, tensors)
        return Path(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, found: Decomposition) -> Finetuned:
        """Load what `save_pretrained` wrote, or the result in the folder of a run.

        Raises:
            ValueError: if the folder holds something else, or belongs to another decomposition.
        """
        folder = Path(folder)
        folder = folder / "final" if (folder / "final").is_dir() else folder
        if not (folder / CONFIG).is_file():
            expected = "a folder of coefficients"
            raise ValueError(
                problem("coefficients", expected, f"{folder} without {CONFIG}", "Check the path.")
            )
        config = read_json(folder / CONFIG)
        kind = config.get("format") if isinstance(config, dict) else None
        names = [f.name for f in fields(cls) if f.name != "coefficients"]
        whole = kind == FORMAT and {"n_subnetworks", *names} <= config.keys()
        expected = f"the config of coefficients, {FORMAT}"
        require(whole, str(folder / CONFIG), expected, f"{kind}", "Learn them again.")
        tensors = read_tensors(folder / TENSORS)
        coefficients = torch.zeros(config["n_subnetworks"], dtype=tensors["coefficients"].dtype)
        coefficients[tensors["index"].long()] = tensors["coefficients"]
        loaded = cls(coefficients, **{name: config[name] for name in names})
        loaded.verify(found)
        return loaded


def is_finetuned(folder: Path) -> bool:
    """Whether `save_pretrained` wrote the folder, and nobody put anything into it."""
    ours = json_object(folder / CONFIG).get("format", "")
    return holds_just(folder, CONFIG, TENSORS) and str(ours).startswith("subscape-coefficients/")


def out_of_range(finetuned: Finetuned, measures: Measures) -> str | None:
    """A warning of δ beyond which gradients do not predict the outputs, if there is one."""
    far = [
        f"{k} (|δ| {abs(delta):.3g}, predicted up to {radius:.3g})"
        for k, delta in finetuned.deltas.items()
        if (radius := measures[k].validity_radius) is not None and abs(delta) > radius
    ]
    if not far:
        return None
    more = f" and {len(far) - 3} more" if len(far) > 3 else ""
    return (
        f"coefficients: subnetworks {', '.join(far[:3])}{more} move further than gradients predict: what was "
        "measured of them need not hold there. Look at the samples, or keep them nearer (l1, keep)."
    )
