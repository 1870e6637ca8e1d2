import json
import math
import os
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from subscape import _io

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Lone surrogates are no text.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=8,
)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


# JSON


@given(value=json_values)
def test_json_round_trip_is_the_identity(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    _io.write_json(path, value)
    assert _io.read_json(path) == value


def test_write_json_makes_the_folder(tmp_path):
    _io.write_json(tmp_path / "a" / "b.json", {"rank": 1})
    assert _io.read_json(tmp_path / "a" / "b.json") == {"rank": 1}


@pytest.mark.parametrize(
    ("bad", "error"), [(math.nan, ValueError), (math.inf, ValueError), (object(), TypeError)]
)
def test_refused_json_leaves_the_old_file_and_nothing_else(tmp_path, bad, error):
    path = tmp_path / "config.json"
    _io.write_json(path, {"old": True})
    with pytest.raises(error):
        _io.write_json(path, {"bad": bad})
    assert _io.read_json(path) == {"old": True}
    assert names(tmp_path) == ["config.json"]


@pytest.mark.parametrize("content", [b"", b'{"rank": ', b"\xff\xfe\x00"])
def test_read_json_names_the_broken_file(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json: expected a JSON file; .*write it again"):
        _io.read_json(path)


def test_reading_what_is_not_there_says_so(tmp_path):
    for read in (_io.read_json, _io.read_tensors, _io.read_metadata):
        with pytest.raises(FileNotFoundError, match="absent"):
            read(tmp_path / "absent")


def test_append_jsonl_adds_one_line_a_record(tmp_path):
    path = tmp_path / "logs" / "train.jsonl"
    for step in range(3):
        _io.append_jsonl(path, {"step": step, "note": "two\nlines"})
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]
    with pytest.raises(ValueError):  # before it writes
        _io.append_jsonl(tmp_path / "other.jsonl", {"loss": math.nan})
    assert names(tmp_path) == ["logs"]


# Tensors


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool]
)
def test_tensors_round_trip_is_the_identity(tmp_path, dtype):
    tensors = {
        "matrix": torch.arange(6).reshape(2, 3).to(dtype),
        "scalar": torch.tensor(1).to(dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
        "also_empty": torch.zeros(2, 0, dtype=dtype),
    }
    _io.write_tensors(tmp_path / "a.safetensors", tensors, {"kind": "test"})
    loaded = _io.read_tensors(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)
    assert _io.read_metadata(tmp_path / "a.safetensors") == {"kind": "test"}


def test_views_and_shared_tensors_are_written_in_full(tmp_path):
    base = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    tensors = {
        "base": base,
        "tied": base,
        "transposed": base.T,
        "row": base[1],
        "column": base[:, 2],
        "expanded": base[0, :1].expand(5),
    }
    _io.write_tensors(tmp_path / "a.safetensors", tensors)
    loaded = _io.read_tensors(tmp_path / "a.safetensors")
    for name, tensor in tensors.items():
        torch.testing.assert_close(loaded[name], tensor.detach(), rtol=0, atol=0)
    assert _io.read_metadata(tmp_path / "a.safetensors") == {}


def test_read_tensors_names_the_broken_file(tmp_path):
    path = tmp_path / "stack.safetensors"
    _io.write_tensors(path, {"a": torch.ones(100)})
    whole = path.read_bytes()
    for content in (b"", whole[:4], whole[:40], whole[:-1], whole + b"x", b"foreign " * 20):
        path.write_bytes(content)
        for read in (_io.read_tensors, _io.read_metadata):
            with pytest.raises(ValueError, match=r"stack\.safetensors: expected a whole.*again"):
                read(path)


def test_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "stack.safetensors"
    _io.write_tensors(path, {"a": torch.zeros(2)})

    def half_a_write(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", half_a_write)
    with pytest.raises(KeyboardInterrupt):
        _io.write_tensors(path, {"a": torch.ones(2)})
    assert names(tmp_path) == ["stack.safetensors"]
    assert _io.read_tensors(path)["a"].tolist() == [0.0, 0.0]


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_files_and_folders_get_the_usual_permissions(tmp_path):
    old = os.umask(0o022)
    try:
        with _io.new_folder(tmp_path / "run") as folder:
            _io.write_json(folder / "config.json", {})
            _io.write_tensors(folder / "a.safetensors", {"a": torch.ones(1)})
    finally:
        os.umask(old)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "run").iterdir()}
    assert modes == {"config.json": 0o644, "a.safetensors": 0o644}
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755


# Folders


def is_old(folder):
    return _io.holds_just(folder, "old")


@pytest.fixture
def target(tmp_path):
    """Makes a folder that holds the files named."""

    def make(*files):
        (tmp_path / "run").mkdir()
        for name in files:
            (tmp_path / "run" / name).touch()
        return tmp_path / "run"

    return make


@pytest.mark.parametrize("exists", [False, True])
def test_new_folder_appears_only_at_success(tmp_path, exists):
    folder = tmp_path / "runs" / "tms"
    if exists:  # and is empty
        folder.mkdir(parents=True)
    with _io.new_folder(folder) as made:
        _io.write_json(made / "config.json", {"rank": 1})
        assert exists or not folder.exists()
    assert names(folder.parent) == ["tms"]
    assert names(folder) == ["config.json"]
    assert _io.read_json(folder / "config.json") == {"rank": 1}


@pytest.mark.parametrize(
    ("files", "overwrite", "said"),
    [
        (["old"], False, "overwrite=True"),
        (["precious"], True, "no earlier result"),
        (["old", "precious"], True, "no earlier result"),
    ],
)
def test_what_a_folder_holds_is_kept(tmp_path, target, files, overwrite, said):
    folder = target(*files)
    with (
        pytest.raises(FileExistsError, match=said),
        _io.new_folder(folder, overwrite=overwrite, owned=is_old),
    ):
        pytest.fail("the body must not run")
    assert names(folder) == files
    assert names(tmp_path) == ["run"]


def test_overwrite_replaces_the_folder(tmp_path, target):
    folder = target("old")
    with _io.new_folder(folder, overwrite=True, owned=is_old) as made:
        (made / "new").touch()
        assert names(folder) == ["old"]
    assert names(folder) == ["new"]
    assert names(tmp_path) == ["run"]


def test_what_is_owned_is_asked_again_at_the_end(target):
    folder = target("old")
    with (
        pytest.raises(FileExistsError, match="no earlier result"),
        _io.new_folder(folder, overwrite=True, owned=is_old),
    ):
        (folder / "precious").touch()
    assert names(folder) == ["old", "precious"]


@pytest.mark.parametrize(
    ("content", "table"), [('{"a": 1}', {"a": 1}), ("[1]", {}), ("{", {}), ("", {}), (None, {})]
)
def test_a_json_object_or_nothing(tmp_path, content, table):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    assert _io.json_object(tmp_path / "a.json") == table


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_body_leaves_nothing_behind(tmp_path, target, overwrite, error):
    folder = target("old") if overwrite else tmp_path / "run"
    with pytest.raises(error), _io.new_folder(folder, overwrite, is_old) as made:
        (made / "half").touch()
        raise error
    assert names(tmp_path) == (["run"] if overwrite else [])
    assert not overwrite or names(folder) == ["old"]


def test_a_folder_filled_meanwhile_is_kept(tmp_path):
    target = tmp_path / "run"
    with pytest.raises(FileExistsError, match="holds files"), _io.new_folder(target):
        target.mkdir()
        (target / "theirs").touch()
    assert names(target) == ["theirs"]
    assert names(tmp_path) == ["run"]


def test_a_failing_rename_puts_the_old_folder_back(tmp_path, target, monkeypatch):
    folder = target("old")
    rename = Path.rename

    def failing(self, to):
        # The second of the two renames: the new folder to its final name.
        if (self / "new").exists():
            raise OSError("disk full")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with (
        pytest.raises(OSError, match="disk full"),
        _io.new_folder(folder, overwrite=True, owned=is_old) as made,
    ):
        (made / "new").touch()
    assert names(folder) == ["old"]
    assert names(tmp_path) == ["run"]


def test_a_file_is_never_replaced_by_a_folder(tmp_path):
    (tmp_path / "run").write_text("precious")
    with (
        pytest.raises(FileExistsError, match="Choose another path"),
        _io.new_folder(tmp_path / "run", overwrite=True),
    ):
        pytest.fail("the body must not run")
    assert (tmp_path / "run").read_text() == "precious"


def test_overwrite_refuses_the_folder_one_stands_in(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "precious").touch()
    monkeypatch.chdir(tmp_path / "here")
    for path in (".", "..", tmp_path):
        with (
            pytest.raises(FileExistsError, match="working or the home folder"),
            _io.new_folder(path, overwrite=True),
        ):
            pytest.fail("the body must not run")
    assert names(tmp_path) == ["here", "precious"]


def test_a_line_that_the_disk_has_no_room_for_is_an_error(tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, limits[1]))
    try:
        _io.append_jsonl(tmp_path / "m.jsonl", {"step": 1})
        with pytest.raises(OSError, match=r"m\.jsonl \(File too large\)"):
            _io.append_jsonl(tmp_path / "m.jsonl", {"step": 2, "fvu": [0.25, 0.5]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_tensors_that_the_disk_has_no_room_for_are_an_error(tmp_path: Path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "c.safetensors"
    _io.write_tensors(path, {"a": torch.zeros(2)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"expected a place to write to; got .*c\.safetensors"):
            _io.write_tensors(path, {"a": torch.ones(1_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["c.safetensors"]
    assert _io.read_tensors(path)["a"].tolist() == [0.0, 0.0]


# What a killed process leaves

LEFT = ".final.0123456789abcdef0123456789abcdef.tmp"


def test_what_a_killed_process_left_counts_for_nothing(tmp_path: Path):
    folder = tmp_path / "run"
    (folder / LEFT).mkdir(parents=True)
    (folder / ".lock").touch()
    assert _io.contents(folder) == []
    assert _io.holds_just(folder)
    _io.check_free(folder, folder=True)
    with _io.new_folder(folder) as new:
        (new / "new").touch()
    assert names(tmp_path) == ["run"]
    assert names(folder) == ["new"]


@pytest.mark.parametrize("name", [".notes.tmp", "final.tmp", LEFT[1:], LEFT + "x", ".a"])
def test_other_hidden_files_count(tmp_path: Path, name: str):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).touch()
    with pytest.raises(FileExistsError, match="holds files"):
        _io.check_free(tmp_path / "run", folder=True)
    _io.remove_half_written(tmp_path / "run")
    assert names(tmp_path / "run") == [name]


def test_half_written_files_and_folders_are_removed(tmp_path: Path):
    (tmp_path / LEFT).mkdir()
    (tmp_path / LEFT / "a").touch()
    (tmp_path / LEFT.replace("final", "run.toml")).touch()
    (tmp_path / "final").touch()
    _io.remove_half_written(tmp_path)
    assert names(tmp_path) == ["final"]


def test_the_names_of_half_written_files_are_known(tmp_path: Path):
    with _io.replacing(tmp_path / "a.json") as temporary:
        temporary.touch()
        assert temporary.exists()
        assert _io.contents(tmp_path) == []
    with _io.new_folder(tmp_path / "b"):
        assert [path.name for path in _io.contents(tmp_path)] == ["a.json"]


@pytest.mark.skipif(os.name != "posix", reason="devices and pipes are POSIX")
def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for write in (_io.write_text, _io.write_json):
        with pytest.raises(FileExistsError, match=r"expected a file to write; got .*pipe"):
            write(pipe, "x")
    with pytest.raises(FileExistsError, match="pipe"):
        _io.write_tensors(pipe, {"a": torch.ones(1)})
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["pipe"]
    assert not Path("/dev/null").is_file()
    with pytest.raises(FileExistsError, match="/dev/null"):
        _io.write_text("/dev/null", "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_what_safetensors_writes_first_is_in_a_folder_of_ours(tmp_path: Path, monkeypatch):
    """It begins with a hidden file of its own naming, which a killed process leaves."""
    seen = []

    def watched(tensors, filename, metadata):
        seen.append([path.name for path in tmp_path.iterdir()])
        assert filename.parent != tmp_path
        (filename.parent / ".tmpAbCdEf").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", watched)
    with pytest.raises(KeyboardInterrupt):
        _io.write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)})
    assert _io.contents(tmp_path) == []
    assert all(_io._TEMPORARY.fullmatch(name) for name in seen[0])
    assert names(tmp_path) == []
