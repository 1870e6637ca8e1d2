"""Run folders of a small network and of a small language model, decomposed once and copied for every test."""

import contextlib
import io
import os
import shlex
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

MODULE = """
import torch
from torch import nn

def model():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return net

def other():
    net = model()
    net[0].bias.data += 1
    return net

def smaller():
    return nn.Sequential(nn.Linear(4, 6))
"""
WORDS = ["<unk>", "once", "upon", "a", "time", "there", "was", "<b>", "cat", "dog", "."]
MEASURE = "--n-rows 60 --n-references 2 --n-top 4 --n-others 12 --n-deltas 2 --batch-size 20"


def call(*arguments: str) -> int:
    from subscape.cli.main import main

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return main(list(arguments))


def trusting(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """With --trust where a command has it: these folders are the tests' own."""
    return (
        (*arguments, "--trust")
        if arguments[0] in ("measure", "evaluate", "sweep", "edit", "finetune", "contrast")
        else arguments
    )


def silent(line: str) -> None:
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        status = call(*line.split())
    assert status == 0, err.getvalue()


def make_language_model(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(
        folder
    )


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """A folder with `net` (not measured in `bare`) and `stories`, and what they were made of."""
    folder = tmp_path_factory.mktemp("runs")
    before = Path.cwd()
    os.chdir(folder)
    try:
        Path("small_model_of_commands.py").write_text(MODULE)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(120, 4, generator=generator)
        save_file({"inputs": x, "labels": torch.arange(120) % 3}, "x.safetensors")
        save_file({"inputs": x + 1}, "other.safetensors")
        save_file({"inputs": torch.randn(120, 4, generator=generator)}, "train.safetensors")
        options = "--steps 20 --batch-size 16 --n-heldout-rows 20 --rank 1 --n-subnetworks 4"
        silent(
            "decompose small_model_of_commands:model --data train.safetensors --heldout x.safetensors "
            f"--out net {options}"
        )
        shutil.copytree("net", "bare")
        silent(f"measure net --trust --json {MEASURE}")
        make_language_model(folder / "llama")
        for file in ("stories.txt", "train.txt"):
            ids = torch.randint(1, len(WORDS), (40, 6), generator=generator)
            text = "<|endoftext|>".join(" ".join(WORDS[i] for i in row) for row in ids.tolist())
            Path(file).write_text(text)
        silent(
            "decompose llama --parameters model.layers.0.self_attn --data train.txt --heldout "
            f"stories.txt --window 6 --rows sampled-token --divergence kl --out stories {options}"
        )
        silent(f"measure stories --json {MEASURE}")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(runs: Path, tmp_path: Path, monkeypatch) -> Path:
    """A copy of them to work in."""
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(folder: Path, capsys):
    """Runs a command that must succeed and returns what it printed."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        status = call(*trusting(arguments))
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return run


@pytest.fixture
def refused(folder: Path, capsys):
    """Runs a command that must be refused in one line, and returns that line."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert call(*trusting(arguments)) == 2
        printed = capsys.readouterr()
        lines = printed.err.strip().splitlines()
        assert len(lines) == 1, printed.err
        assert lines[0].startswith("subscape: ")
        assert "Traceback" not in printed.err
        assert printed.out == ""
        return lines[0]

    return run


def files_of(folder: Path) -> dict[str, bytes]:
    """All that a folder holds, by path."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.is_symlink() and "__pycache__" not in p.parts
    }


@pytest.fixture
def unharmed(folder: Path, capsys):
    """Runs a command that must be refused with some words, in one line and with nothing changed."""

    def run(line: str, *words: str) -> None:
        before = files_of(folder)
        capsys.readouterr()
        drawn = False
        try:
            status = call(*trusting(tuple(shlex.split(line))))
        except SystemExit as error:  # of the parser, which draws a box
            status, drawn = error.code, True
        printed = capsys.readouterr()
        assert status == 2, printed.err
        said = " ".join(printed.err.replace("│", " ").split())
        assert "Traceback" not in said
        assert "see all of it with --debug" not in said
        if not drawn:
            assert len([t for t in printed.err.splitlines() if t.startswith("subscape: ")]) == 1
        for word in words:
            assert word in said, said
        assert files_of(folder) == before

    return run
