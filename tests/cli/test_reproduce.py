import json
from functools import partial

import pytest

from subscape._io import write_text
from subscape.cli import toml
from subscape.cli.basis import BasisFile
from subscape.cli.flags import parsed
from subscape.cli.main import main
from subscape.cli.reproduce import ReproduceRun, _with_flags
from subscape.reproduce.basis import CONFIG
from subscape.reproduce.every import TABLES, Line, Table
from subscape.reproduce.recipes import reproduction
from subscape.toys import TOYS, ToyTraining, tms


def run(*arguments):
    return main([str(a) for a in arguments])


@pytest.fixture
def quick_tms(monkeypatch):
    short = ToyTraining(n_steps=100, n_candidates=4)
    monkeypatch.setitem(TOYS, "tms", partial(tms.many, training=short))


def reproduce_tms(out, seeds: str):
    flags = "--steps 40 --n-samples 300 --json"
    return run("reproduce", "tms", *seeds.split(), *flags.split(), "--out", out)


def test_reproduce_writes_results_that_do_not_depend_on_the_seeds_beside_it(
    tmp_path, capsys, quick_tms
):
    assert reproduce_tms(tmp_path, "--seeds 2") == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["name"] == "tms"
    assert [run["seed"] for run in results["runs"]] == [0, 1]
    wanted = {"seed", "divergence", "n_restarts", "fvu", "fvu_oracle", "l0", "mmcs", "success"}
    assert wanted | {"dead", "active_rate", "steps", "seconds"} <= results["runs"][0].keys()
    assert json.loads(capsys.readouterr().out) == results["summary"]
    assert reproduce_tms(tmp_path, "--seeds 2") == 2  # nothing is overwritten without being asked
    assert "--overwrite" in capsys.readouterr().err
    assert reproduce_tms(tmp_path / "second", "--seeds 1 --first-seed 1") == 0
    (second,) = json.loads((tmp_path / "second" / "results.json").read_text())["runs"]
    assert second["seed"] == 1
    assert second["fvu"] == pytest.approx(results["runs"][1]["fvu"], rel=1e-3)


def test_settings_of_the_toy_and_of_the_decomposition(tmp_path, quick_tms):
    toy = "--n-features 4 --n-hidden 3 --large-input 10"
    flags = f"--seeds 1 {toy} --metric kronecker --metric-damping 1e-4 --group-size 2"
    assert reproduce_tms(tmp_path, flags) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["toy_settings"] == {
        "large_input": 10.0,
        "n_features": 4,
        "n_hidden": 3,
    }
    (of_seed,) = results["runs"]
    assert len(of_seed["active_rate"]) == 8  # two directions for each feature
    assert of_seed["active_scalars"] == pytest.approx(2 * of_seed["l0"])
    assert {"pushes_mmcs", "in_spans", "all_in_spans"} <= of_seed.keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--seeds 0", "seeds: expected a whole number from 1 to 10000; got 0"),
        ("--n-samples 0", "n_samples: expected at least the 128 inputs of a batch; got 0"),
        ("--side-by-side 0", "side_by_side: expected a whole number from 1 to 10000; got 0"),
        ("--first-seed -1", "first_seed: expected at least 0; got -1"),
    ],
)
def test_nothing_to_do_is_refused(tmp_path, capsys, flags, message):
    assert main(["reproduce", "tms", *flags.split(), "--out", str(tmp_path / "new")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_one_killed_between_picture_and_results_goes_on(tmp_path, monkeypatch, capsys):
    results = {"name": "digits-mlp", "runs": [], "summary": {"seeds": [0]}}
    monkeypatch.setattr("subscape.cli.reproduce.reproduce_basis", lambda *_, **__: results)
    (tmp_path / "edges-required.png").write_bytes(b"picture")
    line = ["reproduce", "digits-mlp", "--seeds", 1, "--json", "--out", tmp_path]
    assert run(*line) == 2  # whose it is nobody knows
    (tmp_path / "seed0").mkdir()
    write_text(
        tmp_path / "seed0" / "basis.toml", toml.dumps(BasisFile(tolerance=0.01, basis=CONFIG))
    )
    assert run(*line) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_what_does_not_fit_the_toy_is_refused_before_it_is_trained(tmp_path, quick_tms, capsys):
    assert run("reproduce", "tms", "--rank", 99, "--out", tmp_path / "new") == 2
    assert "rank: expected at most the dimensions [2, 5]" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused_before_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("subscape.cli.reproduce.reproduce", None)
    (tmp_path / "file").write_text("mine")
    assert run("reproduce", "tms", "--out", tmp_path / "file") == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("there", ["edges-required.png", "seed0/notes.txt"])
def test_what_is_no_reproductions_is_kept(tmp_path, monkeypatch, capsys, there, overwrite):
    monkeypatch.setattr("subscape.cli.reproduce.reproduce_basis", None)
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("mine")
    assert run("reproduce", "digits-mlp", "--seeds", "1", "--out", tmp_path, *overwrite) == 2
    assert there.split("/")[0] in capsys.readouterr().err
    assert [p.read_text() for p in tmp_path.rglob("*") if p.is_file()] == ["mine"]


def test_reproduction_of_the_digits(tmp_path, monkeypatch, capsys):
    for package in ("sklearn", "networkx", "matplotlib"):
        pytest.importorskip(package)
    monkeypatch.setattr("subscape.reproduce.digits.STEPS", 150)
    monkeypatch.setattr("subscape.reproduce.digits.HIDDEN", 10)
    arguments = ("reproduce", "digits-mlp", "--seeds", "2", "--out", tmp_path / "r")
    assert run(*arguments, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["seeds"] == [0, 1]
    assert summary["ratio"] <= 1.05
    assert (tmp_path / "r" / "edges-required.png").exists()
    written = json.loads((tmp_path / "r" / "results.json").read_text())
    assert written["summary"] == summary
    assert run(*arguments) == 2
    assert "results.json" in capsys.readouterr().err
    # Every seed's folder is a run as if made stage by stage.
    for stage in ("build", "ablate", "modules"):
        assert run("basis", stage, tmp_path / "r" / "seed1", "--json") == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["lib"]["sizes"] == written["runs"][1]["modules"]["lib"]["sizes"]


def test_reproduction_of_modular_addition_wants_its_checkpoints(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SUBSCAPE_DATA", raising=False)
    assert run("reproduce", "modular-addition", "--out", tmp_path / "r") == 2
    assert "SUBSCAPE_DATA" in capsys.readouterr().err
    wrong = ("--data", tmp_path)
    assert run("reproduce", "modular-addition", "--out", tmp_path / "r", *wrong) == 2
    assert "seed0.safetensors" in capsys.readouterr().err


@pytest.mark.slow
def test_reproduction_of_modular_addition(data_dir, tmp_path, capsys):
    out = tmp_path / "r"
    assert (
        run("reproduce", "modular-addition", "--out", out, "--data", data_dir / "rib_modadd") == 0
    )
    results = json.loads((out / "results.json").read_text())
    by_seed = {r["seed"]: r for r in results["runs"]}
    assert by_seed[3]["edges_required"]["lib"] == [58, 60, 535]
    leading = [next(iter(f)) for f in by_seed[3]["frequencies"]]
    assert sorted(leading) == ["36", "38", "49"]
    for run_of_seed in results["runs"]:
        for method, published in run_of_seed["published"].items():
            for n, wanted in zip(run_of_seed["edges_required"][method], published, strict=True):
                assert abs(n - wanted) <= max(3, 0.03 * wanted)


MARKS = "<!-- few -->\nold\n<!-- end of few -->\n"


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Two lines of one command in the place of all tables, and a page for them."""
    command = "tms --seeds 3 --n-samples 300 --steps 9"
    lines = (Line("one", command), Line("again", command))
    tables = {"few": Table(lines, ("FVU", "success", "matched", "MMCS"))}
    monkeypatch.setattr("subscape.cli.reproduce_all.TABLES", tables)
    write_text(tmp_path / "page.md", f"before\n{MARKS}after\n")
    return tmp_path


def test_all_tables_are_written_and_what_is_there_is_not_run_again(few, capsys, monkeypatch):
    arguments = f"reproduce all --seeds 1 --steps 7 --jobs 1 --out {few / 'all'}".split()
    assert run(*arguments, "--write", few / "page.md") == 0
    (file,) = (few / "all").glob("tms-*.json")
    kept = json.loads(file.read_text())
    assert kept["settings"]["training"]["steps"] == 7
    assert len(kept["runs"]) == 1
    page = (few / "page.md").read_text()
    fvu = f"| {kept['runs'][0]['fvu']:.3f} ± 0.000 |"
    assert page.count(fvu) == 2
    assert page.startswith("before\n<!-- few -->\n| toy | command")
    assert page.endswith("<!-- end of few -->\nafter\n")
    assert "| again | `tms --seeds 3 --n-samples 300 --steps 9` |" in page
    monkeypatch.setattr("subscape.cli.reproduce_all.ProcessPoolExecutor", None)
    write_text(few / "page.md", MARKS)
    assert run(*arguments, "--write", few / "page.md") == 0
    assert fvu in (few / "page.md").read_text()


def test_a_page_without_marks_is_refused_before_anything_runs(few, capsys):
    write_text(few / "page.md", "nothing\n")
    assert run("reproduce", "all", "--out", few / "all", "--write", few / "page.md") == 2
    assert "<!-- few -->" in capsys.readouterr().err
    assert run("reproduce", "all", "--out", few / "all", "--write", few / "none.md") == 2
    assert run("reproduce", "all", "--out", few / "all", "--jobs", "0") == 2
    assert not (few / "all").exists()


@pytest.mark.parametrize("command", [line.command for t in TABLES.values() for line in t.lines])
def test_every_line_of_the_tables_is_a_command_that_fits_its_toy(command):
    settings = parsed(ReproduceRun, "reproduce", command.split())
    assert settings.out == ReproduceRun("tms").out
    what = _with_flags(reproduction(settings.name, settings.recipe), settings)
    assert what.training.steps > 0
