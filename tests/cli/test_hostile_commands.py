"""Command lines that ask for what cannot be: refused with the argument's name, before anything is written.

A case is a line; below it, pieces of what is said. `@decompose` and the like stand for what is right about it.
"""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from subscape.cli import main as main_module
from tests.cli.conftest import call

RIGHT = {
    "@decompose": "decompose small_model_of_commands:model --data train.safetensors --rank 1 "
    "--n-subnetworks 4 --batch-size 16 --steps 3 --n-heldout-rows 20 --out new",
    "@measure": "measure net --out new --n-rows 40",
    "@sweep": "sweep net",
    "@edit": "edit net --lora new --set",
    "@tms": "reproduce tms --out new",
}
BAD_NUMBERS = {
    "n-subnetworks": "0 -1 1.5 nan",
    "l0": "0 -1 5 nan inf",
    "active-fraction": "0 -0.1 1.1 nan inf",
    "steps": "0 -1 1.5",
    "batch-size": "0 -1 109 99999999999999999999",
    "learning-rate": "0 -1 nan inf -inf",
    "decay": "0 -1 nan inf",
    "decay-every": "0 -1",
    "dense-warmup": "-0.1 1.1 nan inf",
    "n-restarts": "0 -1",
    "resample-every": "-1 0.5",
    "resample-until": "-0.1 1.1 nan inf",
    "n-heldout-rows": "0 -1 99999999999999999999",
    "memory-gib": "0 -1 nan inf",
    "micro-batch-size": "0 -1",
    "log-every": "0 -1",
    "checkpoint-every": "0 -1",
    "rank": "0 -1 nan inf 9 1.5 x 1,2,3",
    "metric kronecker --metric-power": "-0.1 1.1 nan inf",
    "metric kronecker --metric-damping": "-0.1 nan inf",
    "row-weight": "-0.1 1.1 nan inf length",
    "window": "0 -1",
    "form": "svd",
    "schedule": "linear",
    "selection": "top-k",
    "rows": "word",
    "divergence": "msee",
    "reference": "nobody",
    "engine": "hooks",
    "metric": "taxi",
    "device": "tpu cuda:99 cpu:1",
    "parameters": "nothing re:( !*",
    "heldout": "none.npy net llama/config.json no.such:thing",
    "data": "none.npy net llama/config.json no.such:thing /dev/null os:getcwd",
    "seed": "x 1.5",
}
BAD_MEASURING = {
    "n-rows": "0 -1 1.5",
    "n-references": "0 -1 1000000000",
    "n-top": "0 -1",
    "n-others": "0 -1",
    "n-outputs": "0 -1",
    "n-deltas": "0 -1 61 100000000000",
    "n-partners": "-1",
    "batch-size": "0 -1",
    "change": "0 -1 nan inf",
    "window": "0 -1",
    "device": "tpu",
    "names": "none.txt x.safetensors /dev/zero",
    "data": "none.npy net",
    "model": "llama no.such:thing small_model_of_commands:smaller small_model_of_commands:other",
}


def of(command, table):
    for flag, values in table.items():
        for value in values.split():
            yield f"{RIGHT[command]} --{flag} {value}", flag.split()[-1].removeprefix("--")


NUMBERS = [*of("@decompose", BAD_NUMBERS), *of("@measure", BAD_MEASURING)]
SAID_AS = {"batch-size": "batch", "model": "", "active-fraction": "active", "memory-gib": "memory"}


@pytest.mark.parametrize(("line", "flag"), NUMBERS, ids=[line[-40:] for line, _ in NUMBERS])
def test_a_value_that_a_setting_cannot_have(unharmed, line, flag):
    word = SAID_AS.get(flag, flag.split("-")[0])
    words = {"--heldout": "data", "--names": "expected"}
    unharmed(line, words.get(line.split()[-2], word))


LINES = """
decompose --config /dev/zero
    /dev/zero: expected a regular file
decompose --config .
    .: expected a regular file
decompose --config llama/model.safetensors
    expected a TOML file
decompose --config
    config: expected a TOML file after --config
decompose --config none.toml
    config: expected a TOML file that exists
decompose ./nowhere --data x.safetensors --out new
    model: expected a folder that exists
decompose net --data x.safetensors --out new
    model: expected a Hugging Face folder with a config.json
decompose net/final --data x.safetensors --out new
    model: expected a Hugging Face config.json with a model_type
decompose x.safetensors --data x.safetensors --out new
    model: expected a Hugging Face folder with a config.json
decompose :x --data x.safetensors --out new
    model: expected package.module:function
decompose x: --data x.safetensors --out new
    model: expected package.module:function
decompose os:nothing --data x.safetensors --out new
    model: expected package.module:function
decompose os:getcwd --data x.safetensors --out new
    model: expected a torch module from os:getcwd
decompose sys:exit_code --data x.safetensors --out new
    model: expected package.module:function
decompose llama --data x.npy --out new
    data: expected a file that exists
decompose llama --data llama --out new
    data: expected a file that exists
decompose llama --data llama/config.json --out new
    data: expected a .txt, .jsonl, .parquet, .npy, .npz or .safetensors file
decompose llama --data stories.txt --window 99 --out new
    data: expected at least one text of 99 tokens
decompose llama --data llama/model.safetensors --out new
    data: expected one array
decompose llama --data x.safetensors --out new
    data: expected inputs that the model takes
@decompose --out train.safetensors
    out: expected a folder to make
@decompose --out train.safetensors/new
    train.safetensors
@decompose --out /dev/null
    out: expected a folder to make
@decompose --out /dev/null/new
    /dev/null
@decompose --out /proc/new
    /proc/new
@decompose --out llama
    out: expected a new folder
@decompose --out .
    out: expected a new folder
@decompose --out stories
    as in the run found in
@decompose --rank *=nan
    rank
@decompose --rank *=
    rank
@decompose --rank nothing=1
    rank: expected a rank for every target parameter
@decompose --rows token --engine jacobian
    engine: expected
@decompose --rows token
    rows: expected outputs
measure nowhere
    run: expected the folder of a finished run
measure llama
    llama/config.json
measure x.safetensors
    run: expected
@measure --out net/run.toml
    net/run.toml
@measure --out /dev/null
    /dev/null
@measure --data other.safetensors --out net/measures
    data
@measure --seed 7 --out net/measures
    --overwrite
top nowhere
    run: expected
top bare
    Measure first
top net --n 0
    n: expected at least 1
top net --n -3
    n: expected at least 1
top net --subnetwork 4
    subnetwork: expected one of the 4
top net --subnetwork -1
    subnetwork: expected one of the 4
top net --subnetwork 99999999999999999999999
    subnetwork: expected one of the 4
top net --measures nowhere
    Measure first
top net --measures stories/measures
    measures: expected those of this decomposition
report net -o .
    out: expected a file to write
report net -o net
    out: expected a file to write
report net -o /dev/full
    out: expected a new file; got /dev/full
report net -o x.safetensors
    out: expected a new file
report net -o x.safetensors --overwrite
    no earlier result
report net -o x.safetensors/page.html
    x.safetensors
report bare
    Measure first
@sweep --subnetwork 4
    subnetwork: expected one of the 4
@sweep --subnetwork -1
    subnetwork: expected one of the 4
@sweep --beside 0
    beside: expected another subnetwork
@sweep --beside 9
    subnetwork: expected one of the 4
@sweep --deltas nan
    deltas: expected finite numbers
@sweep --deltas 1 inf
    deltas: expected finite numbers
@sweep --deltas
    deltas: expected finite numbers
@sweep --tensors nothing
    expected patterns over the 4 names
@sweep --out x.txt
    out: expected a picture
@sweep --out nowhere/x.png
    out: expected a picture
@sweep --out /dev/null
    out: expected a picture
@sweep --data other.safetensors
    data: expected the data that were measured
@sweep --model llama
    model: expected the model this run was made of
@sweep --model small_model_of_commands:other
    target: expected parameter values
edit net
    set: expected moves
@edit
    set: expected moves
@edit 0=
    set: expected SUBNETWORK
@edit =1
    set: expected SUBNETWORK
@edit x=1
    set: expected SUBNETWORK
@edit 0=1 0=2
    set: expected one δ per subnetwork
@edit 4=1
    subnetwork: expected one of the 4
@edit -1=1
    subnetwork: expected one of the 4
@edit 0=nan
    deltas: expected a finite δ
@edit 0=-inf
    deltas: expected a finite δ
@edit 0=1 --tensors nothing
    expected patterns over the 4 names
@edit 0=1
    tensors: expected weights of linear layers
@edit 0=1 --lora /dev/null
    lora: expected a folder to make
@edit 0=1 --lora net
    lora: expected a folder that is new or empty
edit net --set 0=1 --save new
    save: expected a Hugging Face model
edit net --set 0=1 --prompt once
    prompt: expected a causal language model
edit stories --set 0=1 --prompt ''
    prompt: expected a text of at least one token
edit stories --set 0=1 --prompt once --max-new-tokens 0
    max_new_tokens: expected from 1
edit stories --set 0=1 --prompt once --max-new-tokens -5
    max_new_tokens: expected from 1
edit stories --set 0=1 --prompt once --max-new-tokens 99999999999999
    max_new_tokens: expected from 1
check small_model_of_commands:model --data train.safetensors --n-rows 0
    n_rows: expected at least 2
check small_model_of_commands:model --data train.safetensors --n-rows -1
    n_rows: expected at least 2
check small_model_of_commands:model --data train.safetensors --parameters nothing
    parameters: expected patterns
check small_model_of_commands:model --data train.safetensors --engine vmapp
    engine
check small_model_of_commands:model --data nowhere.npy
    data: expected a file that exists
check llama --data stories.txt --window 0
    window: expected at least 1
demo --out /dev/null
    /dev/null
demo --out train.safetensors
    train.safetensors
demo --seed -1 --out new
    seed: expected a whole number from 0
demo --seed 99999999999999999999 --out new
    seed: expected a whole number from 0
@tms --seeds 0
    seeds: expected a whole number from 1
@tms --seeds -1
    seeds: expected a whole number from 1
@tms --seeds 1000000000
    seeds: expected a whole number from 1
@tms --first-seed -1
    first_seed: expected at least 0
@tms --side-by-side 0
    side_by_side: expected a whole number from 1
@tms --n-samples 0
    n_samples: expected at least the 128 inputs
@tms --n-samples -1
    n_samples: expected at least the 128 inputs
@tms --batch-size 5000
    n_samples: expected at least the 5000 inputs
@tms --n-subnetworks 0
    n_subnetworks: expected
@tms --active-fraction 2
    active_fraction: expected
@tms --steps 0
    steps: expected
@tms --dense-warmup nan
    dense_warmup: expected
@tms --n-restarts 0
    n_restarts: expected
@tms --resample-every -1
    resample_every: expected
@tms --out /dev/null
    /dev/null
@tms --out train.safetensors
    train.safetensors
reproduce nothing --out new
    nothing
reproduce modular-addition --data nowhere --out new
    data: expected a folder with seed0.safetensors
reproduce digits-mlp --seeds 1 --out train.safetensors
    train.safetensors
basis build nowhere.toml
    config_or_run: expected a TOML file that exists
basis build /dev/zero
    config_or_run: expected a TOML file that exists
basis build .
    config_or_run: expected a TOML file that exists
basis build net/run.toml
    expected settings among
basis build x.safetensors
    expected a TOML file
basis edges net
    config_or_run: expected
basis nothing net
    nothing
nothing
    command: expected one of the commands
decompos
    Did you mean 'decompose'?
--nothing
    command: expected one of the commands
decompose
    MODEL
measure
    RUN
top
    RUN
report net --nothing
    --nothing
@decompose --learning-rat 3
    learning-rat
"""
CASES = [line for line in LINES.splitlines() if line]
PAIRS = list(zip(CASES[::2], CASES[1::2], strict=True))


@pytest.mark.parametrize(("line", "said"), PAIRS, ids=[line for line, _ in PAIRS])
def test_a_line_that_asks_for_what_cannot_be(unharmed, line, said):
    short, _, rest = line.partition(" ")
    unharmed(f"{RIGHT.get(short, short)} {rest}", *said.strip().split(" | "))


@pytest.mark.parametrize(
    "kind", ["raise KeyError('own')", "raise Exception", "1 / 0", "x = (", "import nothing_at_all"]
)
def test_a_module_of_the_users_that_fails(folder, unharmed, kind):
    (folder / f"failing_{abs(hash(kind))}.py").write_text(kind)
    line = f"decompose failing_{abs(hash(kind))}:model --data x.safetensors --out new"
    unharmed(line, "model: expected package.module:function that can be imported")


# Errors that are nobody's


class OwnError(Exception):
    pass


@pytest.mark.parametrize(
    "error", [KeyError("own"), RuntimeError("own\nlines"), OwnError("own"), AssertionError("own")]
)
def test_any_other_error_is_one_line_with_its_place(monkeypatch, capsys, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(main_module, "_run", fail)
    assert call("top", "x") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"subscape: {type(error).__name__}: ")
    assert f"{Path(__file__).name}:" in line
    assert "--debug" in line
    assert call("top", "x", "--debug") == 2
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert "in fail" in said


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9")]
)
def test_memory_that_is_used_up(monkeypatch, capsys, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(main_module, "_run", fail)
    assert call("decompose", "x") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("subscape: memory: expected room for this command")
    assert "--batch-size" in line


@pytest.mark.parametrize(
    ("command", "resumed"), [("decompose", True), ("measure", True), ("top", False)]
)
def test_an_interrupt_says_whether_the_command_goes_on(monkeypatch, capsys, command, resumed):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(main_module, "_run", fail)
    assert call(command) == 130
    assert ("to resume" in capsys.readouterr().err) == resumed


def test_an_interrupt_that_a_package_swallows_is_still_one(monkeypatch, capsys):
    def swallow(*_):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            pass
        raise RecursionError("half imported")

    monkeypatch.setattr(main_module, "_run", swallow)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert call("top") == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    "seconds",
    [
        0.3,
        pytest.param(0.1, marks=pytest.mark.slow),
        pytest.param(1.0, marks=pytest.mark.slow),
        pytest.param(2.0, marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_while_torch_is_loaded(folder, seconds):
    program = (
        "import sys; from subscape.cli.main import main; print(1, flush=True); sys.exit(main())"
    )
    arguments = [sys.executable, "-c", program, *RIGHT["@decompose"].split(), "--steps", "100000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Tests may run in the background, where interrupts are ignored and children inherit that.
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(arguments, preexec_fn=heeded, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGINT)
        try:
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("subscape: interrupted")
