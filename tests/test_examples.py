"""The examples, and every block of code in the documents, run.

Steps are cut to a few: whether training finds anything is tested elsewhere. Blocks of a document share their
names, from top to bottom. Blocks marked `needs-files`, and `subscape` commands, run where real data are; they
find MODEL_FOLDER, train.txt and heldout.txt in the working folder.
"""

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^```(?P<kind>\w+)(?P<marks>[^\n]*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
FEW_STEPS = 10


def blocks(document: Path, kind: str) -> list[tuple[str, str]]:
    """Marks and code of the blocks of one kind, the code moved down to its line in the document."""
    text = document.read_text(encoding="utf-8")
    return [
        (found["marks"], "\n" * text[: found.start("code")].count("\n") + found["code"])
        for found in FENCE.finditer(text)
        if found["kind"] == kind
    ]


def shortened(code: str) -> str:
    """The code with few steps."""
    return re.sub(r"(\bsteps[= ])[\d_]+", rf"\g<1>{FEW_STEPS}", code)


def run_blocks(document: Path, *, with_files: bool) -> None:
    names: dict[str, object] = {}
    for marks, code in blocks(document, "python"):
        if with_files or "needs-files" not in marks:
            exec(compile(shortened(code), str(document), "exec"), names)


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working folder and a random state of its own: documents may do as they like."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        yield


@pytest.fixture
def files(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "MODEL_FOLDER").symlink_to(data_dir / "stories260k")
    for ours, theirs in (("train.txt", "train_sample.txt"), ("heldout.txt", "heldout_sample.txt")):
        (tmp_path / ours).symlink_to(data_dir / "tinystories" / theirs)


def run_example(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(ROOT / "examples" / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    runpy.run_path(path, run_name="__main__")


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if blocks(d, "python")], ids=lambda d: d.name
)
def test_blocks_of_documents_run(document: Path):
    run_blocks(document, with_files=False)


def test_ten_lines_of_the_readme_run_a_second_time():
    for _ in range(2):
        run_blocks(ROOT / "README.md", with_files=False)


def test_toy_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run_example("toy_recovery", ["500"], monkeypatch)
    assert "5 of 5 circuits found" in capsys.readouterr().out


def test_own_model_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("sklearn")
    run_example("own_model", ["20"], monkeypatch)
    assert "subnetwork 19 is most active on digits" in capsys.readouterr().out


@pytest.mark.usefixtures("files")
def test_language_model_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    arguments = ["MODEL_FOLDER", "heldout.txt", "model.layers.2.self_attn.*", "5"]
    run_example("language_model", arguments, monkeypatch)
    printed = capsys.readouterr().out
    assert "12,288 of 260,032 parameters" in printed
    assert re.search(r"^l0 +10\.0", printed, re.MULTILINE)


@pytest.mark.usefixtures("files")
def test_blocks_that_need_files_run():
    run_blocks(ROOT / "docs" / "guide.md", with_files=True)


@pytest.mark.usefixtures("files")
@pytest.mark.filterwarnings("ignore:forward mode is not there")  # fused attention; it says so
@pytest.mark.parametrize("document", ["README.md", "docs/guide.md"])
def test_commands_of_documents_run(document: str):
    from subscape.cli.main import main

    quick = {
        "decompose": ["--n-heldout-rows", "64", "--n-subnetworks", "20"],
        "measure": [
            "--n-rows",
            "160",
            "--n-references",
            "2",
            "--n-others",
            "8",
            "--n-deltas",
            "2",
            "--n-top",
            "3",
        ],
    }
    commands = [
        shlex.split(shortened(line), comments=True)[1:]
        for _, code in blocks(ROOT / document, "bash")
        for line in code.replace("\\\n", " ").splitlines()
        if line.startswith("subscape ")
    ]
    assert {"decompose", "measure"} <= {command[0] for command in commands}
    for command in commands:
        # Later flags win, so those of the document are cut short.
        assert main([*command, *quick.get(command[0], [])]) == 0
    assert Path("runs/attention/measures/measures.json").is_file()
