"""What a run folder says about itself: its decomposition, and the model and data it was made with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subscape._checks import problem
from subscape.cli import toml
from subscape.cli.loading import load_model, load_tokenizer
from subscape.measures import Measures
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Target

CONFIG = "run.toml"
MEASURES = "measures"


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

    @property
    def measures(self) -> Path:
        """Folder of its measures."""
        return self.folder / MEASURES

    def target(self) -> Target:
        """Load the model, and refuse another one than the decomposition's."""
        if self.model is None:
            raise ValueError(
                problem(
                    "model",
                    "the name of the model this run is of",
                    f"none in {self.folder / CONFIG}",
                    "Give it with --model.",
                )
            )
        loaded = load_model(self.model)
        names = self.decomposition.layout.names
        have = {name for name, _ in loaded.model.named_parameters(remove_duplicate=False)}
        missing = [name for name in names if name not in have]
        if missing:
            raise ValueError(
                problem(
                    "model",
                    f"the model this run was made of, with {len(names)} parameters it decomposed",
                    f"{self.model} without {missing[:3]}",
                    "Give the model of the run with --model.",
                )
            )
        return self.decomposition.target_in(loaded.model, outputs=loaded.outputs)

    def tokenizer(self) -> Any:
        """The model's tokenizer; None for a model without one."""
        if self.model is None or (":" in self.model and not Path(self.model).exists()):
            return None
        try:
            return load_tokenizer(self.model)
        except ValueError:
            return None

    def load_measures(self, folder: Path | None = None) -> Measures:
        """Its measures, by default from the run folder; refuses those of another decomposition."""
        found = Measures.load(folder or self.measures)
        found.verify(self.decomposition)
        return found


def open_run(folder: Path, model: str | None = None, data: str | None = None) -> Run:
    """Open a run folder.

    Args:
        folder: the folder of a run, or one that `save_pretrained` wrote.
        model: overrides the model that the run names.
        data: overrides the data that the run names.

    Returns:
        The run.

    Raises:
        ValueError: if there is no finished run.
    """
    final = folder / "final" if (folder / "final").is_dir() else folder
    if not (final / "config.json").is_file():
        started = (folder / CONFIG).is_file()
        raise ValueError(
            problem(
                "run",
                "the folder of a finished run, or of a saved decomposition",
                f"{folder}, "
                + ("a run that is not finished" if started else "which holds neither"),
                f"Finish it: subscape decompose --config {folder / CONFIG}."
                if started
                else "Check the path.",
            )
        )
    table = toml.read(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return Run(
        folder=folder,
        decomposition=Decomposition.from_pretrained(final),
        model=model or table.get("model"),
        data=data or table.get("heldout") or table.get("data"),
        window=int(table.get("window", 16)),
    )


def check_index(run: Run, index: int) -> None:
    """Refuse a subnetwork that is not there."""
    n = len(run.decomposition)
    if not 0 <= index < n:
        raise ValueError(
            problem("subnetwork", f"one of the {n} of this run, 0 to {n - 1}", repr(index))
        )
