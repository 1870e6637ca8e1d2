"""Help, version, and how values are written on the command line."""

import subprocess
import sys

import pytest
import torch

from subscape.cli.flags import rank_of
from subscape.cli.loading import device_of
from subscape.cli.main import COMMANDS, main


def test_help_lists_the_commands_without_torch_in_a_third_of_a_second():
    program = (
        "import sys, time\nfrom subscape.cli.main import main\nstatus = main(['--help'])\n"
        "print('torch' in sys.modules, time.process_time(), status)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    *text, last = ran.stdout.decode().splitlines()
    with_torch, seconds, status = last.split()
    assert (with_torch, status) == ("False", "0")
    assert float(seconds) <= 0.3
    listed = [line.split()[0] for line in text if line.startswith("  ")]
    assert listed[: len(COMMANDS)] == list(COMMANDS)


def test_version(capsys):
    import subscape

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"subscape {subscape.__version__}\n"


def test_a_command_that_is_none(capsys):
    assert main(["mesure", "run"]) == 2
    assert "got 'mesure'. Did you mean 'measure'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"subscape {command}" in text
    assert "(default: '')" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("decompose", ["MODEL", "--data", "(required)"]),
        ("decompose m", ["--data", "(required)"]),
        ("check m", ["--data", "(required)"]),
        ("measure", ["RUN", "(required)"]),
    ],
)
def test_what_is_required_is_said_to_be(capsys, arguments, words):
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("words", "rank"),
    [
        ("2", 2),
        ("0.1", 0.1),
        ("4 8", (4, 8)),
        ("*.weight=0.1 *=4,8", {"*.weight": 0.1, "*": (4, 8)}),
        ("a[=]b=3", {"a[=]b": 3}),
    ],
)
def test_ranks(words, rank):
    assert rank_of(words.split()) == rank


@pytest.mark.parametrize("words", ["x", "1 2.5", "*=", ""])
def test_what_is_no_rank(words):
    with pytest.raises(ValueError, match="rank: expected a rank"):
        rank_of(words.split())


def test_a_rank_by_tensor_on_the_command_line(monkeypatch):
    seen = []
    monkeypatch.setattr("subscape.cli.decompose.run", seen.append)
    rank = ["--rank", "*.bias=1", "*=0.5"]
    assert main(["decompose", "m", "--data", "d", *rank, "--steps", "3"]) == 0
    assert seen[0].training.rank == {"*.bias": 1, "*": 0.5}
    assert seen[0].training.steps == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("decompose m --data d --rank x", "rank: expected a rank (2)"),
        ("decompose m --data d --steps 0", "steps: expected a whole number of at least 1; got 0."),
        ("finetune r --data d --keep -1", "keep: expected a number of at least 0; got -1.0."),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(capsys, line, said):
    assert main(line.split()) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"subscape: {said}")


def test_devices():
    assert device_of("cpu") == torch.device("cpu")
    absent = "mps" if torch.cuda.is_available() else "cuda"
    for name in (absent, "cuda:99", "gpu", "meta"):
        with pytest.raises(ValueError, match=rf"device: expected .*'cpu'.*; got '{name}'"):
            device_of(name)


@pytest.mark.parametrize(
    "arguments",
    [
        "decompose small_model_of_commands:model --data train.safetensors --out new",
        "check small_model_of_commands:model --data x.safetensors",
        "measure net",
        "sweep net",
        "edit net --set 1=1 --prompt a",
    ],
)
def test_a_device_that_is_not_there(folder, refused, arguments):
    assert "device: expected one that torch finds here" in refused(
        *arguments.split(), "--device", "cuda:99"
    )
    assert not (folder / "new").exists()


def test_a_device_reaches_model_and_decomposition(folder):
    from subscape.cli.run_folder import open_run

    opened = open_run(folder / "net", trust=True, device="cpu")
    assert opened.device == torch.device("cpu")
    assert opened.target().like.device == opened.decomposition.decoder.weights.device
