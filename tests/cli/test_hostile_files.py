"""Folders and files that are damaged, foreign or forged: refused by name, or as good as new; never in between.

Every case is one change of one file, and the words that the refusal must have.
"""

import gc
import io
import json
import pickle
import shutil
import struct
from pathlib import Path

import numpy
import pytest
import torch

from subscape._io import read_metadata, read_tensors, write_tensors
from subscape.training.checkpoint import checksum
from tests.cli.conftest import call, files_of

NAN, INF = float("nan"), float("inf")
DEEP = b"[" * 100_000


def changed(table, path, value):
    """A table with the value at a path such as 'layout.0.ranks'; a path with '-' before it is taken away."""
    *way, last = [int(k) if k.isdigit() else k for k in path.removeprefix("-").split(".")]
    place = table
    for key in way:
        place = place[key]
    if path.startswith("-"):
        del place[last]
    else:
        place[last] = value
    return table


# The settings of a saved decomposition

WRONG = {
    "n_subnetworks": [0, -1, 2.5, "4", None, [4], 5, 3, 10**9],
    "layout": [None, {}, "x", 3, [], [{}], [3]],
    "layout.0.name": [3, None, "other"],
    "layout.0.shape": [None, "46", [6], [6, 4, 1], [0, 4], [-6, 4], [6.5, 4], [4, 6]],
    "layout.0.form": ["svd", 3, None, "cp"],
    "layout.0.ranks": [None, [0, 1], [-1, 1], [1], [2, 2], ["1", "1"], [1.5, 1]],
    "selection": [None, {}, "batch-top-k", 3, []],
    "selection.kind": [None, "other", 3, ["batch-top-k"], "jumprelu"],
    "selection.l0": [None, 0, -1, "1", 5, NAN, INF],
    "target": [None, {}, "x", []],
    "target.model": [None, 3],
    "target.tensors": [None, 3, [3], [{}]],
    "target.sha256": [None, 3],
    "row_weight": [None, "other", -1, 2, NAN, []],
    "settings": [3, "x", []],
    "metrics": [3, "x", [], {"fvu": {"a": 1}}],
    "format_version": ["3.0", 3, None, "", "x"],
    "method": ["other", None, 3],
    **{f"-{key}": [None] for key in ("n_subnetworks", "layout", "selection", "target", "method")},
    **{f"-layout.1.{key}": [None] for key in ("name", "shape", "form", "ranks")},
    "-target.sha256": [None],
    "-selection.l0": [None],
    "-format_version": [None],
}
CONFIGS = [(path, value) for path, values in WRONG.items() for value in values]


@pytest.mark.parametrize(("path", "value"), CONFIGS, ids=lambda v: f"{v!s:.40}")
def test_a_forged_config(folder, unharmed, path, value):
    file = folder / "net/final/config.json"
    file.write_text(json.dumps(changed(json.loads(file.read_text()), path, value)))
    unharmed("top net", "expected", "net/final/")


BYTES = {
    "empty": b"",
    "cut": b'{"method": "l3d", "n_sub',
    "a list": b"[1]",
    "a number": b"3",
    "nothing": b"null",
    "deep": DEEP,
    "latin": '{"méthode": 1}'.encode("latin-1"),
    "binary": bytes(range(256)),
    "zeros": bytes(5000),
    "pickle": pickle.dumps({"method": "l3d"}),
}


@pytest.mark.parametrize("kind", list(BYTES))
@pytest.mark.parametrize("file", ["net/final/config.json", "net/measures/measures.json"])
def test_no_json(folder, unharmed, file, kind):
    (folder / file).write_bytes(BYTES[kind])
    unharmed("top net", "expected", file)


@pytest.mark.parametrize("kind", [k for k in BYTES if k not in ("empty", "a list")])
def test_no_toml(folder, unharmed, kind):
    (folder / "net/run.toml").write_bytes(BYTES[kind])
    unharmed("top net", "expected a TOML file", "net/run.toml")


# Its tensors


def inverted(t, at):
    flat = t.clone().flatten()
    flat[0] = at
    return flat.view(t.shape)


TENSORS = {
    "missing": lambda t: None,
    "NaN": lambda t: inverted(t, NAN),
    "infinite": lambda t: inverted(t, INF),
    "integer": lambda t: t.long(),
    "bool": lambda t: t > 0,
    "complex": lambda t: t.to(torch.complex64),
    "longer": lambda t: torch.cat([t, t]),
    "for all": lambda t: (t[:1] if t.shape[-1] == 1 else t[..., :1]).contiguous(),
    "an axis more": lambda t: t[None],
}
NAMES = ["encoder.0.weight.core", "decoder.2.weight.factors.0", "decoder.0.bias.core"]


@pytest.mark.parametrize("way", list(TENSORS))
@pytest.mark.parametrize("name", NAMES)
def test_forged_tensors(folder, unharmed, name, way):
    file = folder / "net/final/subnetworks.safetensors"
    tensors = read_tensors(file)
    new = TENSORS[way](tensors.pop(name))
    write_tensors(file, tensors if new is None else tensors | {name: new})
    unharmed("top net", name, "net/final/subnetworks.safetensors")


@pytest.mark.parametrize("value", [NAN, INF, -INF, -1e-9, -1.0])
def test_a_threshold_that_none_has(folder, unharmed, value):
    file = folder / "net/final/subnetworks.safetensors"
    write_tensors(file, read_tensors(file) | {"selection.threshold": torch.tensor(value)})
    unharmed("top net", "expected thresholds from 0 up", "net/final/subnetworks.safetensors")


CUT = [0, 1, 7, 8, 9, 100, -1000, -8, -1]
SAFETENSORS = [
    "net/final/subnetworks.safetensors",
    "net/measures/measures.safetensors",
    "x.safetensors",
]


@pytest.mark.parametrize("n", CUT)
@pytest.mark.parametrize("file", SAFETENSORS)
def test_a_file_cut_short(folder, unharmed, file, n):
    (folder / file).write_bytes((folder / file).read_bytes()[:n])
    line = "sweep net --data x.safetensors" if file == "x.safetensors" else "top net"
    unharmed(line, "expected a whole safetensors file", file)


FOREIGN = {
    "text": b"hello",
    "pickle": pickle.dumps({"a": torch.ones(2)}),
    "a long header": struct.pack("<Q", 2**62) + b"{}",
    "an empty header": struct.pack("<Q", 2) + b"{}",
    "a header that lies": struct.pack("<Q", 61)
    + b'{"inputs":{"dtype":"F32","shape":[9999],"data_offsets":[0,4]}}'[:61],
}


@pytest.mark.parametrize("kind", list(FOREIGN))
@pytest.mark.parametrize("file", SAFETENSORS)
def test_no_safetensors(folder, unharmed, file, kind):
    (folder / file).write_bytes(FOREIGN[kind])
    unharmed("sweep net" if file == "x.safetensors" else "top net", "expected")


@pytest.mark.parametrize("file", [*SAFETENSORS, "net/final/config.json", "net/run.toml"])
def test_a_folder_in_place_of_a_file(folder, unharmed, file):
    (folder / file).unlink()
    (folder / file).mkdir()
    unharmed("sweep net", "expected")


@pytest.mark.skipif(not hasattr(__import__("os"), "mkfifo"), reason="pipes are POSIX")
@pytest.mark.parametrize(
    "file",
    [*SAFETENSORS, "net/final/config.json", "net/run.toml", "net/measures/measures.json"],
)
def test_a_pipe_in_place_of_a_file_does_not_hang(folder, unharmed, file):
    import os

    (folder / file).unlink()
    os.mkfifo(folder / file)
    unharmed("sweep net", "expected")


# Checkpoints

RESUME = (
    "decompose small_model_of_commands:model --data train.safetensors --heldout x.safetensors --out net "
    "--steps 20 --batch-size 16 --n-heldout-rows 20 --rank 1 --n-subnetworks 4"
)
CHECKPOINT = "net/checkpoint.safetensors"


def test_a_whole_checkpoint_is_taken(folder):
    assert call(*RESUME.split()) == 0


@pytest.mark.parametrize("part", range(24))
def test_a_flipped_bit(folder, unharmed, part):
    """Anywhere in the file; what it says of itself included."""
    content = bytearray((folder / CHECKPOINT).read_bytes())
    content[len(content) * part // 24 + 8 * (part == 0)] ^= 1 << part % 8
    (folder / CHECKPOINT).write_bytes(content)
    unharmed(RESUME, "expected")


FORGED = {
    "step -5": {"step": torch.tensor(-5)},
    "step 0": {"step": torch.tensor(0)},
    "step 10⁹": {"step": torch.tensor(10**9)},
    "step 1.5": {"step": torch.tensor(1.5)},
    "steps": {"step": torch.tensor([3, 4])},
    "another tensor": {"more": torch.ones(1)},
    "a moment less": {"optimiser.0.exp_avg": None},
    "a side less": {"dictionary.encoder_weights": None},
    "no threshold": {"dictionary.selection.threshold": None},
    "a NaN threshold": {"dictionary.selection.threshold": NAN},
    **{
        f"{name} {way}": {name: change}
        for name in ("dictionary.decoder_weights", "optimiser.1.exp_avg_sq")
        for way, change in {k: v for k, v in TENSORS.items() if k != "bool"}.items()
    },
}


@pytest.mark.parametrize("kind", list(FORGED))
def test_a_forged_checkpoint(folder, unharmed, kind):
    """With a checksum that is right."""
    state = read_tensors(folder / CHECKPOINT)
    for name, new in FORGED[kind].items():
        old = state.pop(name, None)
        new = new(old) if callable(new) else new
        new = torch.full_like(old, new) if isinstance(new, float) else new
        state |= {} if new is None else {name: new}
    said = read_metadata(folder / CHECKPOINT)
    said["checksum"] = checksum(said, state)
    write_tensors(folder / CHECKPOINT, state, said)
    unharmed(RESUME, "checkpoint: expected", "--overwrite")


# Lines of metrics

LINES = {
    "torn": b'{"step": 20, "fvu": [0.1',
    "no number": b'{"step": "x", "fvu": [], "l0": [], "silent": []}\n',
    "another record": b'{"loss": 3}\n',
    "binary": b"\xff\xfe}\n",
    "a list": b"[1]\n",
    "too late": b'{"step": 99, "fvu": [1.0], "l0": [1.0], "silent": [0.0]}\n',
    "below one": b'{"step": 0, "fvu": [1.0], "l0": [1.0], "silent": [0.0]}\n',
    "blank": b"\n\n",
    "deep": DEEP + b"\n",
}


@pytest.mark.parametrize("kind", list(LINES))
def test_damaged_lines_of_metrics_go_and_hinder_nothing(folder, kind):
    file = folder / "net/metrics.jsonl"
    before = file.read_bytes()
    file.write_bytes(before + LINES[kind])
    assert call(*RESUME.split()) == 0
    assert file.read_bytes() == before


def test_a_link_is_not_followed(folder):
    link, mine = folder / "net/metrics.jsonl", folder / "mine.txt"
    kept = link.read_bytes()
    mine.write_bytes(kept + b"mine")
    link.unlink()
    link.symlink_to(mine)
    assert call(*RESUME.split()) == 0
    assert mine.read_bytes() == kept + b"mine"
    assert not link.is_symlink()


# Data


def npy(array, **options) -> bytes:
    import io

    file = io.BytesIO()
    numpy.save(file, array, **options)
    return file.getvalue()


def header(shape, kind="<f4") -> bytes:
    return npy(numpy.zeros(1, kind)).replace(b"(1,)", f"{shape}".encode())[:128]


ROWS = numpy.random.default_rng(0).normal(size=(60, 4)).astype("f4")
ARRAYS = {
    "empty": b"",
    "text": b"hello",
    "cut header": npy(ROWS)[:40],
    "cut": npy(ROWS)[:-3],
    "objects": npy(numpy.array([{"a": 1}, None]), allow_pickle=True),
    "pickle": pickle.dumps(ROWS),
    "strings": npy(numpy.array(["a", "b"])),
    "bytes": npy(numpy.array([b"a", b"b"])),
    "dates": npy(numpy.array(["2020-01-01"], "M8[D]")),
    "records": npy(numpy.zeros(3, "f4,f4")),
    "long doubles": npy(ROWS.astype(numpy.longdouble)),
    "huge": header((10**12, 4)),
    "beyond any memory": header((2**40, 2**20)),
    "one number": npy(numpy.float32(3)),
    "no rows": npy(ROWS[:0]),
    "NaN": npy(ROWS * numpy.array([1, 1, NAN, 1], "f4")),
}


@pytest.mark.parametrize("kind", list(ARRAYS))
def test_a_hostile_npy(folder, unharmed, kind):
    (folder / "a.npy").write_bytes(ARRAYS[kind])
    word = "outputs" if kind == "NaN" else "data: expected"
    unharmed("decompose small_model_of_commands:model --data a.npy --rank 1 --out new", word)


def zipped(folder, **arrays) -> bytes:
    numpy.savez(folder / "a.npz", **arrays)
    return (folder / "a.npz").read_bytes()


ZIPPED = {
    "empty": lambda f: b"",
    "text": lambda f: b"hello",
    "cut": lambda f: zipped(f, inputs=ROWS)[:-30],
    "cut early": lambda f: zipped(f, inputs=ROWS)[:100],
    "damaged": lambda f: zipped(f, inputs=ROWS).replace(ROWS.tobytes()[:64], bytes(64)),
    "no zip": lambda f: npy(ROWS),
    "objects": lambda f: zipped(f, inputs=numpy.array([{"a": 1}])),
    "strings": lambda f: zipped(f, inputs=numpy.array(["a", "b"])),
    "none": lambda f: zipped(f),
    "two": lambda f: zipped(f, a=ROWS, b=ROWS),
    "labels in words": lambda f: zipped(f, inputs=ROWS, labels=numpy.array(["a"] * 60)),
}


@pytest.mark.parametrize("kind", list(ZIPPED))
def test_a_hostile_npz(folder, unharmed, kind):
    (folder / "a.npz").write_bytes(ZIPPED[kind](folder))
    unharmed("decompose small_model_of_commands:model --data a.npz --rank 1 --out new", "data")


def test_a_cut_npz_is_closed_again(folder):
    from subscape.cli.loading import load_data

    (folder / "a.npz").write_bytes(ZIPPED["cut"](folder))
    with pytest.raises(ValueError, match="^data: ") as refused:  # whose traceback holds the file
        load_data("a.npz", "", 1)
    assert refused.value
    files = [f for f in gc.get_objects() if type(f) is io.BufferedReader]
    assert not [f for f in files if str(f.name).endswith("a.npz") and not f.closed]


@pytest.mark.parametrize("kind", [">f4", "<f4", ">f8", "f2"])
def test_numbers_in_any_order_of_bytes_and_of_any_size(folder, kind):
    (folder / "a.npy").write_bytes(npy(ROWS.astype(kind)))
    from subscape.cli.loading import load_data

    assert torch.allclose(load_data("a.npy", "", 1).float(), torch.from_numpy(ROWS), atol=2e-3)


TEXTS = {
    "latin": ("Größe " * 99).encode("latin-1"),
    "binary": bytes(range(256)),
    "UTF-16": ("once upon " * 99).encode("utf-16"),
    "empty": b"",
    "separators": b"<|endoftext|>" * 9,
    "one word": b"once",
}


@pytest.mark.parametrize("kind", list(TEXTS))
def test_a_hostile_text(folder, unharmed, kind):
    (folder / "a.txt").write_bytes(TEXTS[kind])
    unharmed(
        "decompose llama --data a.txt --window 4 --rank 1 --out new",
        "a.txt: expected" * (kind in ("latin", "binary", "UTF-16")),
        "a.txt",
    )


@pytest.mark.parametrize("kind", ["latin", "binary", "UTF-16"])
def test_names_of_outputs(folder, unharmed, kind):
    (folder / "a.txt").write_bytes(TEXTS[kind])
    unharmed("measure bare --names a.txt --out new", "a.txt: expected text in UTF-8")


# What is measured

RECORD = {
    "format": ["subscape-measures/1", "other", 3, None],
    "n_rows": [-1, "x", None, 1.5],
    "subnetworks": [None, 3, [], [{}]],
    "subnetworks.0.index": [1, -1, "0", None],
    "subnetworks.0.impact": [-1.0, "x", None],
    "subnetworks.0.active_rate": [-0.1, 1.1, "x"],
    "subnetworks.1.top_samples": [3, [{}]],
    "names": [None, 3],
    "settings": [None, {"n_rows": 0}],
    "decomposition": ["other", 3],
    "-n_rows": [None],
    "-names": [None],
}


@pytest.mark.parametrize(
    ("path", "value"), [(p, v) for p, vs in RECORD.items() for v in vs], ids=lambda v: f"{v!s:.40}"
)
def test_forged_measures(folder, unharmed, path, value):
    file = folder / "net/measures/measures.json"
    file.write_text(json.dumps(changed(json.loads(file.read_text()), path, value)))
    unharmed("top net", "measures", "expected")


OTHERS = {
    "measures.json": b'{"mine": 1}',
    "measures.safetensors": b"mine",
    "subnetworks.jsonl": b'{"mine": 1}\n',
    "impact.safetensors": b"mine",
    "samples.safetensors": b"mine",
}


@pytest.mark.parametrize("more", ["", " --overwrite"])
@pytest.mark.parametrize("name", list(OTHERS))
def test_measures_replace_no_file_of_others(folder, unharmed, name, more):
    (folder / "mine").mkdir()
    (folder / "mine" / name).write_bytes(OTHERS[name])
    unharmed(f"measure net --out mine{more}", "out: expected", f"mine/{name}", "move it away")


def test_measures_replace_measures(folder):
    (folder / "net/measures/notes.txt").write_text("mine")
    before = files_of(folder / "net/measures")
    few = "--n-rows 40 --n-references 2 --n-top 3 --n-others 12 --n-deltas 2 --batch-size 20"
    assert call("measure", "net", "--trust", "--overwrite", "--json", *few.split()) == 0
    after = files_of(folder / "net/measures")
    assert after.keys() == before.keys()
    assert {n for n in after if after[n] == before[n]} == {"notes.txt"}


@pytest.mark.parametrize("part", range(12))
def test_a_flipped_bit_of_what_was_measured_so_far(folder, part):
    """A damaged line is measured again; a damaged sum is refused, or the pass is made anew."""
    few = "--n-rows 60 --n-references 2 --n-top 4 --n-others 12 --n-deltas 2 --batch-size 20"
    command = ["measure", "net", "--trust", "--json", *few.split()]
    before = files_of(folder / "net/measures")
    file = folder / "net/measures/subnetworks.jsonl"
    content = bytearray(file.read_bytes())
    content[len(content) * part // 12] ^= 1 << part % 7
    file.write_bytes(content)
    assert call(*command) == 0
    assert files_of(folder / "net/measures") == before
    shutil.rmtree(folder / "net/measures")


def test_nothing_of_this_leaves_a_pickle(folder):
    assert not [p for p in Path(folder).rglob("*") if p.suffix in (".pkl", ".pickle", ".pt")]
