"""What stays when the explorer is closed: names and notes, and edits as a LoRA or a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from subscape._checks import problem, require
from subscape._io import new_folder, write_json
from subscape.explorer.session import Moves, Session
from subscape.measures.record import identity_of
from subscape.report.labels import Label, Labels, read_labels
from subscape.subnetworks.editing import edited_copy
from subscape.subnetworks.lora import save_lora

EXPORTS = "exports"


@dataclass(frozen=True)
class Takeaway:
    """Keeps things in a folder; refuses all without one."""

    session: Session
    """Whose they are."""
    folder: Path | None
    """The run's."""

    def labels(self) -> Labels:
        """All names and notes."""
        identity = identity_of(self.session.decomposition)
        return Labels(identity) if self.folder is None else read_labels(self.folder, identity)

    def label(self, index: int, label: Label) -> dict[str, Any]:
        """Name a subnetwork, beside what other tabs and hands have named meanwhile."""
        n = len(self.session.measures)
        require(0 <= index < n, "subnetwork", f"one of {n}, 0 to {n - 1}", index)
        labels = self.labels().with_label(index, label)
        labels.save(self._there())
        return {"labels": msgspec.to_builtins(labels.labels, str_keys=True)}

    def keep(self, kind: str, moves: Moves) -> dict[str, Any]:
        """Write an edit into a new folder under the run's `exports`."""
        write = {"lora": self._lora, "model": self._model}.get(kind)
        if write is None:
            raise ValueError(problem("kind", "lora or model", kind))
        require(bool(moves.deltas), "moves", "some subnetwork that is moved", "none")
        exports = self._there() / EXPORTS
        free = next(path for i in count(1) if not (path := exports / f"{kind}-{i}").exists())
        write(free, moves)
        return {"path": str(free)}

    def _there(self) -> Path:
        if self.folder is None:
            expected = "a folder to write to"
            raise ValueError(problem("folder", expected, "none", "Give one: explore(…, folder=…)."))
        return self.folder

    def _lora(self, folder: Path, moves: Moves) -> None:
        save_lora(folder, self.session.target.model, self.session.change_of(moves))

    def _model(self, folder: Path, moves: Moves) -> None:
        session = self.session
        model = session.target.model
        repair = "Take the Python lines instead: decomposition.edited(model, deltas)."
        ours = hasattr(model, "save_pretrained")
        require(ours, "model", "a Hugging Face model", type(model).__name__, repair)
        with new_folder(folder) as temporary:
            new: Any = edited_copy(model, session.change_of(moves))
            new.save_pretrained(temporary)
            if session.tokenizer is not None:
                session.tokenizer.save_pretrained(temporary)
            write_json(temporary / "edit.json", msgspec.to_builtins(moves, str_keys=True))
