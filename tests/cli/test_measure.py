import json
import shutil

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from subscape.measures import Measures

SETTINGS = ["--n-rows", "60", "--n-references", "2", "--n-top", "4", "--n-others", "12"]
SETTINGS += ["--n-deltas", "2", "--batch-size", "20"]


def test_it_leaves_the_measures_in_the_run_folder(folder, command):
    printed = json.loads(command("measure", "bare", "--json", *SETTINGS))
    assert {p.name for p in (folder / "bare" / "measures").iterdir()} == {
        "impact.safetensors",
        "measures.json",
        "measures.safetensors",
        "subnetworks.jsonl",
    }
    assert printed.pop("out") == "bare/measures"
    found = Measures.load("bare/measures")
    assert json.loads(json.dumps(msgspec.to_builtins(found.record))) == printed
    assert len(found) == 4
    # Labels lie beside the inputs.
    kept = found.samples
    assert torch.equal(kept["labels"], load_file("x.safetensors")["labels"][kept["index"]])


def test_text_says_what_to_do_next(command):
    text = command("measure", "bare", *SETTINGS)
    assert "4 subnetworks over 60 rows, 1 reference each" in text
    assert "subscape report bare -o report.html" in text
    text = command("measure", "bare", "--out", "elsewhere", *SETTINGS)
    assert "subscape top bare --measures elsewhere" in text
    assert "impact" in command("top", "bare", "--measures", "elsewhere")


def test_tokens_and_outputs_are_named(folder):
    found = Measures.load("stories/measures")
    words = set(found.names.tokens.values())
    assert words <= {"once", "upon", "a", "time", "there", "was", "<b>", "cat", "dog", "."}
    assert len(words) > 5
    assert "<b>" in set(found.names.outputs.values()) | words
    assert found.rows == "token"


def test_classes_are_named_by_a_file(folder, command):
    (folder / "names.txt").write_text("zero\none\n")
    command("measure", "bare", "--names", "names.txt", "--json", *SETTINGS)
    names = Measures.load("bare/measures").names.outputs
    assert names == {0: "zero", 1: "one", 2: "output 2"}


def test_a_model_without_a_tokenizer_is_measured_without_names(folder, command):
    for file in (folder / "llama").glob("token*"):
        file.unlink()
    ids = torch.randint(0, 11, (20, 6), generator=torch.Generator().manual_seed(0))
    save_file({"input_ids": ids}, folder / "ids.safetensors")
    arguments = ["measure", "stories", "--data", "ids.safetensors", "--out", "m", "--json"]
    printed = json.loads(command(*arguments, *SETTINGS))
    assert printed["names"] == {"outputs": {}, "tokens": {}}


def test_the_same_again_is_only_read(folder, command):
    before = (folder / "net" / "measures" / "measures.json").read_bytes()
    stamp = (folder / "net" / "measures" / "impact.safetensors").stat().st_mtime_ns
    command("measure", "net", "--json", *SETTINGS)
    assert (folder / "net" / "measures" / "measures.json").read_bytes() == before
    assert (folder / "net" / "measures" / "impact.safetensors").stat().st_mtime_ns == stamp


def test_interrupted_it_goes_on(folder, command, monkeypatch, capsys):
    from subscape.cli.main import main
    from subscape.measures import measure as module

    expected = json.loads(command("measure", "bare", "--json", "--out", "whole", *SETTINGS))
    right, calls = module.card, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return right(*arguments)

    monkeypatch.setattr(module, "card", stopping)
    assert main(["measure", "bare", "--json", "--trust", *SETTINGS]) == 130
    assert "give the same command again to resume" in capsys.readouterr().err
    assert "Measure first" in refused_of(capsys, "top", "bare")
    found = json.loads(command("measure", "bare", "--json", *SETTINGS))
    assert len(calls) == 4 + 1
    del expected["out"], found["out"]
    assert found == expected


def refused_of(capsys, *arguments: str) -> str:
    from subscape.cli.main import main

    assert main(list(arguments)) == 2
    return capsys.readouterr().err


def test_other_settings_need_overwrite_which_takes_only_its_own_files(folder, command, refused):
    (folder / "net" / "measures" / "notes.txt").write_text("mine")
    error = refused("measure", "net", "--json", *SETTINGS, "--seed", "1")
    assert "the same measurement" in error
    command("measure", "net", "--json", *SETTINGS, "--seed", "1", "--overwrite")
    assert Measures.load("net/measures").settings.seed == 1
    assert (folder / "net" / "measures" / "notes.txt").read_text() == "mine"


def test_a_decomposition_alone_needs_model_and_data(folder, command, refused):
    shutil.copytree("net/final", "alone")
    assert "--data" in refused("measure", "alone", *SETTINGS)
    assert "--model" in refused("measure", "alone", "--data", "x.safetensors", *SETTINGS)
    more = ["--model", "small_model_of_commands:model", "--data", "x.safetensors", "--json"]
    command("measure", "alone", *more, *SETTINGS)
    assert (folder / "alone" / "measures" / "measures.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("measure nowhere", ["run: expected the folder of a finished run", "nowhere"]),
        ("measure bare --data none.npz", ["data: expected a file that exists", "none.npz"]),
        ("measure bare --names none.txt", ["names: expected a text file", "none.txt"]),
        (
            "measure bare --model small_model_of_commands:other",
            ["target: expected parameter values", "same shapes, other values"],
        ),
        (
            "measure bare --model small_model_of_commands:smaller",
            ["model: expected the model this run was made of", "2.weight"],
        ),
        ("measure bare --model llama", ["model: expected the model this run was made of"]),
    ],
)
def test_a_wrong_argument_gets_one_line(refused, arguments, words):
    error = refused(*arguments.split())
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("setting", "words"),
    [("--n-top 0", "n_top: expected a whole number"), ("--change 0", "change: expected a share")],
)
def test_settings_out_of_range_are_refused_with_the_flags(refused, setting, words):
    assert words in refused("measure", "bare", *setting.split())


def test_a_run_that_is_not_finished(folder, refused):
    shutil.rmtree("bare/final")
    assert "Finish it: subscape decompose --config bare/run.toml" in refused("measure", "bare")


@pytest.mark.parametrize("bad", [11, -1])
@pytest.mark.parametrize("dictionary", [False, True])
def test_data_of_another_vocabulary(folder, refused, bad: int, dictionary: bool):
    ids = torch.ones(20, 6, dtype=torch.long)
    ids[3, 2] = bad
    more = {"attention_mask": torch.ones_like(ids)} if dictionary else {}
    save_file({"input_ids": ids, **more}, folder / "ids.safetensors")
    error = refused("measure", "stories", "--data", "ids.safetensors", "--out", "m")
    assert f"the model's vocabulary, 0 to 10; got {bad}" in error
    assert not (folder / "m").exists()


def test_text_without_a_tokenizer(folder, refused):
    for file in (folder / "llama").glob("token*"):
        file.unlink()
    assert "a tokenizer with llama" in refused("measure", "stories", "--out", "m")


def test_a_place_that_cannot_be_written_to(folder, refused):
    (folder / "file").write_text("")
    assert "file" in refused("measure", "bare", "--out", "file/m", "--json", *SETTINGS)


def test_a_refused_command_overwrites_nothing(folder, refused):
    kept = {p: p.read_bytes() for p in (folder / "net" / "measures").iterdir()}
    assert "data: expected a file" in refused("measure", "net", "--overwrite", "--data", "no.npy")
    config = folder / "net" / "final" / "config.json"
    config.write_text(config.read_text().replace('"mse"', '"my_own"'))
    assert "got 'my_own'" in refused("measure", "net", "--overwrite", "--json", *SETTINGS)
    assert {p: p.read_bytes() for p in (folder / "net" / "measures").iterdir()} == kept


def test_other_settings_are_named_with_the_way_out(refused):
    error = refused("measure", "net", "--json", *SETTINGS, "--n-top", "3")
    assert "n_top 3; got net/measures/impact.safetensors with n_top 4" in error
    assert "--overwrite" in error


def test_an_unwritable_folder_is_told_before_measuring(refused):
    error = refused("measure", "bare", "--out", "x.safetensors/measures", *SETTINGS)
    assert "expected a place to write to; got x.safetensors/measures" in error
