"""One measurement at a time in a folder, and one that was killed goes on to the same record."""

import json
import shutil
import signal
import subprocess
import sys
import zlib
from dataclasses import asdict

import pytest
import torch

from subscape._io import read_metadata, read_tensors, write_json, write_tensors
from subscape.measures import MeasureConfig
from subscape.measures.measure import measure

pytestmark = pytest.mark.usefixtures("unchecked")

CONFIG = MeasureConfig(
    n_rows=40, n_references=2, n_top=4, n_others=12, n_outputs=3, n_deltas=1, batch_size=20
)
FILES = ("impact.safetensors", "measures.json", "measures.safetensors", "subnetworks.jsonl")
OTHER = """
import gc, os, signal, sys
from pathlib import Path
import torch
from subscape import Decomposition, Target
from subscape._io import read_json, read_tensors
from subscape.measures import MeasureConfig
from subscape.measures.measure import measure

made = Path(sys.argv[1])
model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).eval()
model.load_state_dict(read_tensors(made / "model.safetensors"))
module = sys.modules["subscape.measures.measure"]
card, number = module.card, 0

def stopping(*arguments):
    global number
    number += 1
    if number == 2:
        print("in there", flush=True)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        sys.stdin.readline()
    return card(*arguments)

module.card = stopping
gc.freeze()  # a fork that visits all objects has to copy all their pages
while line := sys.stdin.readline():
    how, folder = line.split()
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    measure(
        Decomposition.from_pretrained(made / "decomposition"),
        Target(model),
        read_tensors(made / "data.safetensors")["data"],
        config=MeasureConfig(**read_json(made / "config.json")),
        out=folder,
        progress=False,
    )
    break
"""


@pytest.fixture(scope="module")
def made(small):
    settings = {"divergence": "mse", "reference": "another-row", "rows": "sample"}
    return small("mlp", n=40, dtype=torch.float32, settings=settings | {"active_fraction": 0.4})


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(made, folder)
    return folder


@pytest.fixture
def start(made, tmp_path):
    """Has another process measure in a folder until its second card, where it waits or is killed."""
    folder = tmp_path / "made"
    made.decomposition.save_pretrained(folder / "decomposition")
    write_tensors(folder / "model.safetensors", made.target.model.state_dict())
    write_tensors(folder / "data.safetensors", {"data": made.data})
    write_json(folder / "config.json", asdict(CONFIG))
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def begin(how, folder):
            print(how, folder, file=process.stdin, flush=True)
            assert process.stdout.readline() == "in there\n"
            return process

        yield begin
        process.stdin.close()
        assert process.wait(60) == 0


def run(made, folder):
    return measure(
        made.decomposition, made.target, made.data, config=CONFIG, out=folder, progress=False
    )


def assert_same(folder, other):
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for one, expected in ((folder / name, other / name) for name in FILES):
        if one.suffix != ".safetensors":
            assert one.read_bytes() == expected.read_bytes(), one
            continue
        # The entries of its header come in any order.
        assert read_metadata(one) == read_metadata(expected)
        tensors, others = read_tensors(one), read_tensors(expected)
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[key], others[key]) for key in tensors), one


def test_others_wait_and_one_that_is_killed_goes_on_to_the_same_files(made, whole, start, tmp_path):
    folder = tmp_path / "together"
    other = start("wait", folder)
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(BlockingIOError, match=r"^folder: .*together, which another process"):
        run(made, folder)
    # Not even to measure anew.
    with pytest.raises(BlockingIOError):
        measure(made.decomposition, made.target, made.data, out=folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == there
    print(file=other.stdin, flush=True)
    assert other.stdout.readline() == "0\n"
    assert_same(folder, whole)

    folder = tmp_path / "killed"
    for _ in range(2):  # killed once more after one more card
        assert start("kill", folder).stdout.readline() == f"{-signal.SIGKILL}\n"
    assert (folder / "subnetworks.jsonl").read_bytes().count(b"\n") == 1 + 2
    assert not (folder / "measures.json").exists()
    run(made, folder)
    assert_same(folder, whole)


def renumbered(line, index):
    """The line of a card as another's, with a right checksum."""
    card = {**json.loads(line), "index": index}
    del card["crc32"]
    return json.dumps(card | {"crc32": zlib.crc32(json.dumps(card).encode())}).encode()


CASES = {
    "two processes at once": (lambda h, c: [h, c[0], c[1], c[0], c[2], c[4]], 2),
    "another order": (lambda h, c: [h, c[1], c[0], *c[2:]], 0),
    "one twice": (lambda h, c: [h, c[0], c[0], *c[1:]], 1),
    "one missing": (lambda h, c: [h, c[0], *c[2:]], 1),
    "more than there are": (lambda h, c: [h, *c, renumbered(c[4], 5)], 5),
    "no header": (lambda h, c: c, 0),
    "only half a header": (lambda h, c: [h[: len(h) // 2], *c], 0),
    "the header twice": (lambda h, c: [h, h, *c], 0),
    "a digit changed": (lambda h, c: [h, c[0], c[1].replace(b": 0.", b": 1."), *c[2:]], 1),
    "half a line": (lambda h, c: [h, c[0], c[1][:-20], *c[2:]], 1),
    "cut off in a line": (lambda h, c: [h, c[0], c[1][:-20]], 1),
    "cut off in the header": (lambda h, c: [h[:20]], 0),
    "two lines in one": (lambda h, c: [h, c[0], c[1] + c[2], *c[3:]], 1),
    "an empty line": (lambda h, c: [h, c[0], b"", *c[1:]], 1),
    "no object": (lambda h, c: [h, c[0], b"[1]", *c[1:]], 1),
    "no checksum": (lambda h, c: [h, c[0], b'{"index": 1}', *c[2:]], 1),
    "no text": (lambda h, c: [h, c[0], c[1], b"\xff\x00\xfe", *c[3:]], 2),
    "too deep": (lambda h, c: [h, c[0], b"[" * 100_000, *c[2:]], 1),
    "nothing": (lambda h, c: [], 0),
}


def test_only_cards_in_their_place_are_believed(made, whole, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "damaged")
    file = folder / "subnetworks.jsonl"
    header, *cards = file.read_bytes().splitlines()
    module = sys.modules[measure.__module__]
    measured, card = [], module.card

    def counting(scene, k, *arguments):
        measured.append(k)
        return card(scene, k, *arguments)

    monkeypatch.setattr(module, "card", counting)
    for name, (damaged, n_kept) in CASES.items():
        lines = damaged(header, cards)
        assert lines != [header, *cards], name
        file.write_bytes(b"\n".join(lines) + b"\n" * ("cut off" not in name))
        (folder / "measures.json").unlink()
        measured.clear()
        run(made, folder)
        assert measured == list(range(n_kept, 5)), name
        assert_same(folder, whole)
