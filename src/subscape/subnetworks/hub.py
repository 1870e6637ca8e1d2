"""A decomposition on the Hugging Face Hub: its folder, a card that says what it is, and a report."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from subscape._checks import optional, problem, require
from subscape._io import write_text
from subscape._markdown import table
from subscape.lowrank import Layout
from subscape.subnetworks.formats import is_hub_name

FIGURES = {
    "fvu": "fraction of variance unexplained",
    "l0": "active subnetworks in a row",
    "dead": "share of dead subnetworks",
    "heldout_rows": "held-out rows",
}
REPORT = "report.html"


def push(
    repository: str,
    save: Callable[[Path], object],
    text: str,
    *,
    report: Path | None,
    private: bool,
) -> str:
    """Upload what `save` writes, a card and a report to a repository, made if need be; its address."""
    require(is_hub_name(repository), "repository", "user/repository", repr(repository))
    there = report is None or report.is_file()
    require(there, "report", "a page that exists", str(report), "Write it: subscape report RUN.")
    hub = optional("huggingface_hub", "to push to the Hub", "huggingface_hub")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "upload"
        save(folder)
        write_text(folder / "README.md", text)
        if report is not None:
            shutil.copyfile(report, folder / REPORT)
        api = hub.HfApi(library_name="subscape")
        try:
            address = api.create_repo(repository, private=private, exist_ok=True)
            message = "Upload a decomposition"
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
        except (OSError, ValueError) as error:
            got = f"{repository} ({next(iter(str(error).splitlines()), '')})"
            repair = "Check the name, the connection and that you are logged in: hf auth login."
            expected = "a repository that you may write to"
            raise ValueError(problem("repository", expected, got, repair)) from error
    return str(address)


def card(
    repository: str,
    n: int,
    layout: Layout,
    *,
    model: str,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
    base_model: str | None,
    with_report: bool,
) -> str:
    """The README of a repository."""
    head = {"library_name": "subscape", "tags": ["interpretability", "parameter-decomposition"]}
    if base_model is not None and is_hub_name(base_model):
        head["base_model"] = base_model
    tensors = [
        (f"`{t.name}`", " × ".join(map(str, t.shape)), ", ".join(map(str, t.ranks)))
        for t in layout.tensors
    ]
    chosen = [(f"`{k}`", f"`{value}`") for k, value in settings.items() if value is not None]
    page = f" Its report: `{REPORT}`, to download and open in a browser." if with_report else ""
    return "\n".join([
        "---",
        *_front(head),
        "---",
        "",
        f"# {n} subnetworks of `{base_model or model}`",
        "",
        f"A decomposition of the gradients of `{model}` in {len(layout.tensors)} tensors with "
        f"{layout.n_parameters:,} parameters into directions that are sparsely active.{page}",
        "",
        *_figures(metrics),
        *_table(("tensor", "shape", "ranks"), tensors),
        *_table(("setting", "value"), chosen),
        "```python",
        "import subscape",
        "",
        f'found = subscape.Decomposition.from_pretrained("{repository}")',
        "with found.edit(model, {0: 0.5}):  # the model it was made of; another one is refused",
        "    ...",
        "```",
        "",
    ])


def _front(head: Mapping[str, str | list[str]]) -> list[str]:
    lines = []
    for key, value in head.items():
        lines += (
            [f"{key}: {value}"]
            if isinstance(value, str)
            else [f"{key}:", *(f"- {v}" for v in value)]
        )
    return lines


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    rows = [
        (words, f"{value:,.3g}" if isinstance(value, float) else f"{value:,}")
        for name, words in FIGURES.items()
        if isinstance(value := metrics.get(name), int | float)
    ]
    return _table(("on rows not trained on", ""), rows) if rows else []


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [table(head, [[cell.replace("|", "\\|") for cell in row] for row in rows]), ""]
