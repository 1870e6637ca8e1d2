"""Classes of samples from files of several kinds."""

import numpy
import pytest
import torch
from safetensors.torch import save_file

from subscape.cli.classes import classes_for
from subscape.measures import Measures

SAMPLES = torch.zeros(3, 2)
WRITTEN = {
    "c.txt": "2\n0\n\n1\n",
    "alone.csv": "2\n0\n1\n",
    "headed.csv": "label\n2\n0\n1\n",
    "among.csv": 'text,label\n"a, b",2\nc,0\nd,1\n',
    "c.jsonl": '{"text": "a", "label": 2}\n{"label": 0}\n{"label": 1}\n',
}


@pytest.mark.parametrize("name", WRITTEN)
def test_text_files(tmp_path, name):
    (tmp_path / name).write_text(WRITTEN[name])
    assert classes_for(tmp_path / name, "", SAMPLES).tolist() == [2, 0, 1]


def test_arrays_and_what_lies_beside_the_data(tmp_path):
    classes = torch.tensor([2, 0, 1])
    numpy.save(tmp_path / "c.npy", classes.numpy())
    save_file({"inputs": SAMPLES, "labels": classes}, tmp_path / "x.safetensors")
    for file in ("c.npy", "x.safetensors"):
        assert classes_for(tmp_path / file, "", SAMPLES).equal(classes)
    assert classes_for(None, str(tmp_path / "x.safetensors"), SAMPLES).equal(classes)
    assert classes_for(None, str(tmp_path / "c.npy"), SAMPLES) is None


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.txt", "1\n2\n", r"a whole number for each of the 3 samples.*got \[2\]"),
        ("c.txt", "1\ncat\n2\n", r"line 2: expected a class as a whole number; got 'cat'.*--names"),
        ("c.csv", "a,b\n1,2\n", r"a column 'label' in .*; got columns \['a', 'b'\]"),
        ("c.jsonl", '{"text": "a"}\n', r"line 1: expected a class as a whole number; got 'None'"),
        ("c.xml", "1\n2\n3\n", r"labels: expected a \.txt, \.csv"),
        ("none.txt", None, "labels: expected a file that exists"),
    ],
)
def test_what_is_refused(tmp_path, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        classes_for(tmp_path / name, "", SAMPLES)


def test_a_command_takes_them(folder, command):
    (folder / "classes.csv").write_text("label\n" + "".join(f"{i % 7}\n" for i in range(120)))
    few = "--n-rows 60 --n-references 2 --n-top 4 --n-others 12 --n-deltas 2 --batch-size 20"
    command("measure", "bare", "--labels", "classes.csv", "--json", *few.split())
    kept = Measures.load("bare/measures").samples
    assert kept["labels"].tolist() == [i % 7 for i in kept["index"].tolist()]
