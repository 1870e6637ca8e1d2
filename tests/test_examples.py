"""The examples, and every block of code in the documents, run.

Steps are cut to a few: whether training finds anything is tested elsewhere. Blocks of a document share their
names, from top to bottom. Blocks marked `needs-files`, and `subscape` commands, run where real data are; they
find MODEL_FOLDER, train.txt, heldout.txt and poems.txt in the working folder.
"""

import copy
import re
import runpy
import shlex
import sys
from functools import partialmethod
from pathlib import Path

import pytest

from subscape.scorecard.config import ScoreConfig

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^```(?P<kind>\w+)(?P<marks>[^\n]*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
FEW = {
    "decompose": "--steps 5 --n-heldout-rows 64 --n-subnetworks 18 --batch-size 32",
    "evaluate": "--leave-out twin adversary probes --n-rows 64 --n-fit 64 --n-pushed 2 --n-agree 512",
    "measure": "--n-rows 48 --n-references 2 --n-others 2 --n-deltas 2 --n-top 2 --n-partners 1",
}
"""Later flags win, so those of a document's command are cut short."""


def blocks(document, kind):
    """Marks and code of the blocks of one kind, the code moved down to its line in the document."""
    text = document.read_text(encoding="utf-8")
    return [
        (found["marks"], "\n" * text[: found.start("code")].count("\n") + found["code"])
        for found in FENCE.finditer(text)
        if found["kind"] == kind
    ]


def shortened(code):
    """The code with few steps."""
    return re.sub(r"(\bsteps[= ])[\d_]+", r"\g<1>5", code)


def run_blocks(document, *, with_files):
    names = {}
    for marks, code in blocks(document, "python"):
        if with_files or "needs-files" not in marks:
            exec(compile(shortened(code), str(document), "exec"), names)


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch, trained_tms, unchecked):
    """A working folder of its own, where documents may do as they like, and what would take most of the time."""
    monkeypatch.chdir(tmp_path)
    for name, few in (("METRIC_ROWS", 256), ("MEAN_SAMPLES", 64)):
        monkeypatch.setattr(f"subscape.gradients.source.{name}", few)
    monkeypatch.setattr("subscape.measures.quality.N_ROWS", 64)
    for name, few in (("MOST_ROUNDS", 2), ("MOST_ROWS", 256)):
        monkeypatch.setattr(f"subscape.training.clusters.{name}", few)
    few = partialmethod(ScoreConfig.__init__, n_attacked=2, n_ascent=3)
    monkeypatch.setattr(ScoreConfig, "__init__", few)
    monkeypatch.setattr("subscape.toys.tms", lambda seed: copy.deepcopy(trained_tms))


@pytest.fixture
def files(data_dir, tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "MODEL_FOLDER").symlink_to(data_dir / "stories260k")
    for ours, theirs in (
        ("train.txt", "train_sample.txt"),
        ("heldout.txt", "heldout_sample.txt"),
        ("poems.txt", "heldout_sample.txt"),
    ):
        text = (data_dir / "tinystories" / theirs).read_text(encoding="utf-8")
        (tmp_path / ours).write_text(text[:30_000], encoding="utf-8")


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if blocks(d, "python")], ids=lambda d: d.name
)
def test_blocks_of_documents_run(document, tmp_path):
    run_blocks(document, with_files=False)
    if any(tmp_path.iterdir()):  # what they save may be there already
        run_blocks(document, with_files=False)


@pytest.mark.parametrize(
    ("name", "arguments", "needed", "printed"),
    [
        ("toy_recovery", ["500"], None, ["5 of 5 circuits found"]),
        ("scorecard", ["20"], "sklearn", ["* inactive subnetworks", "20 training steps"]),
        ("own_model", ["20"], "sklearn", ["subnetwork 19 is most active on digits"]),
        (
            "language_model",
            ["MODEL_FOLDER", "heldout.txt", "model.layers.2.self_attn.*", "5"],
            "transformers",
            ["12,288 of 260,032 parameters", "l0              10.0"],
        ),
    ],
)
def test_examples(name, arguments, needed, printed, request, monkeypatch, capsys):
    if needed:
        pytest.importorskip(needed)
    if "MODEL_FOLDER" in arguments:
        request.getfixturevalue("files")
    path = str(ROOT / "examples" / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    runpy.run_path(path, run_name="__main__")
    shown = capsys.readouterr().out
    assert all(line in shown for line in printed)


@pytest.mark.usefixtures("files")
def test_blocks_that_need_files_run():
    run_blocks(ROOT / "docs" / "guide.md", with_files=True)


@pytest.mark.usefixtures("files")
@pytest.mark.filterwarnings("ignore:forward mode is not there")  # fused attention; it says so
@pytest.mark.filterwarnings("ignore:coefficients")  # five steps predict nothing far
@pytest.mark.parametrize("document", ["README.md", "docs/guide.md"])
def test_commands_of_documents_run(document, monkeypatch):
    from subscape.cli.main import main

    # It would go on until somebody ends it; tests/explorer and tests/cli/test_explore.py see to it.
    monkeypatch.setattr("subscape.cli.explore.explore", lambda *_, **__: None)
    commands = [
        shlex.split(shortened(line), comments=True)[1:]
        for _, code in blocks(ROOT / document, "bash")
        for line in code.replace("\\\n", " ").splitlines()
        if line.startswith("subscape ")
    ]
    # After five steps subnetwork 3 may have no δ of its own; tests/cli/test_edit.py has runs where it has.
    sizes = {"3": "3=0.5", "3=2x": "3=1"}
    commands = [[sizes.get(w, w) for w in c] if c[0] == "edit" else c for c in commands]
    assert {"decompose", "measure"} <= {command[0] for command in commands}
    for command in commands:
        assert main([*command, *FEW.get(command[0], "").split()]) == 0
    assert Path("runs/mlp/measures/measures.json").is_file()
