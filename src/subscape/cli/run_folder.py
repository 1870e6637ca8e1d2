"""What a run folder says about itself: its decomposition, and the model and data it was made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from subscape._checks import problem, require
from subscape.cli import toml
from subscape.cli.loading import (
    device_of,
    is_code,
    load_data,
    load_model,
    refuse_code,
)
from subscape.cli.models import Pooling, load_tokenizer, mean_pool
from subscape.data import Samples
from subscape.measures import Measures
from subscape.measures.record import NAME
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Target
from subscape.training.blocks import FOLDER as BLOCKS

CONFIG = "run.toml"
MEASURES = "measures"


@dataclass(frozen=True)
class Made:
    """What run.toml says of what a run was made with."""

    model: str | None = None
    data: str | None = None
    heldout: str | None = None
    window: int = 16


@dataclass(frozen=True)
class Run:
    """A run folder, or the folder of a decomposition alone."""

    folder: Path
    """Where it is."""
    decomposition: Decomposition
    """What was found."""
    model: str | None
    """Name of the model, if known."""
    data: str | None
    """Data not trained on, or else those trained on, if known."""
    window: int
    """Tokens in a window of text."""
    device: torch.device
    """Where the model runs."""
    untrusted: Mapping[str, str]
    """Functions that run.toml names as `model` and `data`, which are not called."""

    @property
    def measures(self) -> Path:
        """Folder of its measures."""
        return self.folder / MEASURES

    @property
    def named(self) -> str:
        """Itself on a command line that loads its model."""
        return f"{self.folder}{' --trust' if is_code(self.model) or is_code(self.data) else ''}"

    @property
    def pooling(self) -> Pooling | None:
        """How the model's hidden states become one output, if the decomposition was made so."""
        made = self.decomposition.settings.get("outputs") == mean_pool.__name__
        return "mean-pool" if made and not is_code(self.model) else None

    def target(self) -> Target:
        """Load the model, and refuse another one than the decomposition's."""
        if self.model is None:
            expected, got = "the name of the model of this run", f"none in {self.folder / CONFIG}"
            raise ValueError(problem("model", expected, got, "Give it with --model."))
        self._refuse_code("model")
        loaded = load_model(self.model, self.device, self.pooling)
        names = self.decomposition.layout.names
        have = {name for name, _ in loaded.model.named_parameters(remove_duplicate=False)}
        missing = [name for name in names if name not in have]
        expected = f"the model this run was made of, with {len(names)} parameters it decomposed"
        got = f"{self.model} without {missing[:3]}"
        require(not missing, "model", expected, got, "Give the model of the run with --model.")
        return self.decomposition.target_in(loaded.model, outputs=loaded.outputs)

    def samples(self, window: int | None = None) -> Samples:
        """Load the data."""
        if self.data is None:
            raise ValueError(problem("data", "data", "none in the run", "Give them with --data."))
        self._refuse_code("model", "data")
        return self.load(self.data, window)

    def load(self, data: str, window: int | None = None) -> Samples:
        """Load data as this run takes them."""
        window = self.window if window is None else window
        return load_data(data, self.model or "", window, self.pooling)

    def _refuse_code(self, *arguments: str) -> None:
        for argument in arguments:
            name = self.untrusted.get(argument)
            if name is not None:
                refuse_code(argument, name, self.folder / CONFIG, f"--{argument} {name}")

    def tokenizer(self) -> Any:
        """The model's tokenizer; None for a model without one."""
        if self.model is None or is_code(self.model):
            return None
        try:
            return load_tokenizer(self.model)
        except ValueError:
            return None

    def known_measures(self) -> Measures | None:
        """Its measures, if it was measured."""
        return self.load_measures() if (self.measures / NAME).is_file() else None

    def load_measures(self, folder: Path | None = None) -> Measures:
        """Its measures, by default from the run folder; refuses those of another decomposition."""
        found = Measures.load(folder or self.measures)
        found.verify(self.decomposition)
        return found


def open_run(
    folder: Path,
    model: str | None = None,
    data: str | None = None,
    *,
    trust: bool = False,
    device: str = "cpu",
) -> Run:
    """Open the folder of a finished run, or one that `save_pretrained` wrote.

    Args:
        folder: where it is.
        model: overrides the model that the run names.
        data: overrides the data that the run names.
        trust: whether functions that the run names may be called.
        device: where the model is to run.
    """
    place = device_of(device)
    final = folder / "final" if (folder / "final").is_dir() else folder
    started = (folder / CONFIG).is_file()
    parts = sorted(path.name for path in (folder / BLOCKS).glob("*")) if started else []
    require(
        not parts,
        "run",
        "the folder of one block",
        f"{folder}, which holds {len(parts)}",
        f"Such as {folder / BLOCKS / (parts or [''])[0]}.",
    )
    require(
        (final / "config.json").is_file(),
        "run",
        "the folder of a finished run, or of a saved decomposition",
        f"{folder}, {'a run that is not finished' if started else 'which holds neither'}",
        f"Finish it: subscape decompose --config {folder / CONFIG}."
        if started
        else "Check the path.",
    )
    table = toml.read(folder / CONFIG) if started else {}
    kept = {k: v for k, v in table.items() if k in Made.__annotations__}
    made = toml.build(Made, kept, str(folder / CONFIG))
    named = {"model": made.model, "data": made.heldout or made.data}
    given = {"model": model, "data": data}
    return Run(
        folder=folder,
        decomposition=Decomposition.from_pretrained(final, device=place),
        model=model or named["model"],
        data=data or named["data"],
        window=made.window,
        device=place,
        untrusted={k: v for k, v in named.items() if not trust and not given[k] and is_code(v)},
    )


def check_index(run: Run, index: int) -> None:
    """Refuse a subnetwork that is not there."""
    n = len(run.decomposition)
    require(0 <= index < n, "subnetwork", f"one of the {n} of this run, 0 to {n - 1}", index)
