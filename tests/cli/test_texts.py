"""Texts from files and from data sets."""

import json

import pytest

from subscape._checks import optional
from subscape.cli.loading import load_data
from subscape.cli.texts import MOST, is_pairs, texts_of

TEXTS = [f"text number {i}" for i in range(7)]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The same texts as a line each, as JSON and as Parquet."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    monkeypatch.chdir(tmp_path)
    records = [{"id": i, "source": "here", "text": text} for i, text in enumerate(TEXTS)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "set").mkdir()
    for name in ("t.jsonl", "set/train.jsonl"):
        (tmp_path / name).write_text(lines)
    (tmp_path / "set" / "test.jsonl").write_text(json.dumps(records[0] | {"text": "of test"}))
    parquet.write_table(pyarrow.Table.from_pylist(records), "t.parquet", row_group_size=2)
    (tmp_path / "t.txt").write_text("<|endoftext|>".join(TEXTS))
    return tmp_path


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet", "t.txt"])
def test_files_of_texts(files, name):
    assert list(texts_of(name)) == TEXTS


def test_data_sets_are_read_as_far_as_asked_for(files, monkeypatch):
    datasets = pytest.importorskip("datasets")
    for name, expected in {
        "hf:./set": TEXTS,
        "hf:./set:train[:3]": TEXTS[:3],
        "hf:./set:train[2:4]": TEXTS[2:4],
        "hf:./set:test": ["of test"],
    }.items():
        assert list(texts_of(name)) == expected
    read = []

    def endless(*_, **options):
        assert options == {"split": "train", "streaming": True}
        while True:
            read.append(0)
            yield {"text": "again"}

    monkeypatch.setattr(datasets, "load_dataset", endless)
    assert sum(1 for _ in texts_of("hf:org/set")) == MOST == len(read)


def test_pairs_are_told_by_their_first_line(files):
    (files / "p.jsonl").write_text('{"a": "one", "b": "two"}\n')
    assert is_pairs("p.jsonl") and not is_pairs("t.jsonl") and not is_pairs("hf:org/set.jsonl")


def test_the_only_field_of_text_will_do(files):
    (files / "s.jsonl").write_text('{"sentence": "one", "label": 1}\n{"sentence": "two"}\n')
    assert list(texts_of("s.jsonl")) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.jsonl", '{"q": "one", "w": "two"}\n', "got fields of text ['q', 'w'], of ['q', 'w']"),
        ("m.jsonl", '{"text": "one"}\n{"text": 2}\n', "data: expected a text as 'text' everywhere"),
        ("m.jsonl", '{"text": "one"}\nno JSON\n', "m.jsonl line 2: expected a JSON object"),
        ("m.jsonl", "[1]\n", "m.jsonl line 1: expected a JSON object"),
        ("m.parquet", "no Parquet", "data: expected a whole Parquet file; got m.parquet"),
        ("none.jsonl", None, "data: expected a file that exists; got 'none.jsonl'"),
        ("hf:set[3]", None, "data: expected hf:org/set, hf:org/set:split"),
        ("hf:./nothing-here", None, "data: expected a data set that can be had"),
    ],
)
def test_refusals(files, name, content, words):
    if content is not None:
        (files / name).write_text(content)
    with pytest.raises(ValueError) as error:
        list(texts_of(name))
    assert words in str(error.value)


def test_a_package_that_is_not_there_is_named(files, monkeypatch):
    real = optional

    def missing(module, *rest):
        return real("no_such_package_here" if module == "datasets" else module, *rest)

    monkeypatch.setattr("subscape.cli.texts.optional", missing)
    with pytest.raises(ImportError, match=r"for hf:org/set.*pip install 'subscape\[data\]'"):
        list(texts_of("hf:org/set"))


def test_windows_never_run_into_the_next_text(files):
    class Tokenizer:
        def __call__(self, text):
            return {"input_ids": [int(word) for word in text.split()]}

    (files / "n.jsonl").write_text('{"text": "1 2 3"}\n{"text": "4 5"}\n{"text": "6"}\n')
    import subscape.cli.loading as loading

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_tokenizer", lambda _: Tokenizer())
        patch.setattr(loading, "reads_whole_texts", lambda *_: False)
        assert load_data("n.jsonl", "m", 2)["input_ids"].tolist() == [[1, 2], [4, 5]]
