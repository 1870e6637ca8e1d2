"""One at a time in a folder, whoever the other is and however it ends."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from subscape import decompose
from subscape._lock import locked
from subscape.interaction_basis import BasisConfig, stages
from subscape.interaction_basis.figures import report_stage
from subscape.interaction_basis.task import Task

HOLDER = """
import sys
from subscape._lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "a")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def enter(folder):
    with locked(folder):
        pass


def elsewhere(action, *arguments):
    """What it returns or raises in another thread, which is refused as another process is."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(action, *arguments).result()


def test_another_process_is_refused_until_the_first_one_is_done(tmp_path, holder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("a")
    for spelling in (tmp_path / "a", "a", "link", str(tmp_path / "b" / ".." / "a")):
        with pytest.raises(BlockingIOError) as refused:
            enter(spelling)
        assert f"got {spelling}, which another process" in str(refused.value)
        assert "\n" not in str(refused.value)
    assert [path.name for path in (tmp_path / "a").iterdir()] == [".lock"]
    holder.communicate("")
    assert holder.returncode == 0
    assert not (tmp_path / "a").exists()
    enter("a")


def test_a_killed_process_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / "a" / ".lock").exists()
    enter(tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []


def test_whoever_has_it_may_take_it_again(tmp_path):
    with locked(tmp_path):
        with locked(tmp_path):
            pass
        with pytest.raises(BlockingIOError):
            elsewhere(enter, tmp_path)
    elsewhere(enter, tmp_path)


def test_an_exception_frees_it_and_leaves_no_empty_folder(tmp_path):
    def fail(name, keep):
        with pytest.raises(KeyError), locked(tmp_path / name):
            if keep:
                (tmp_path / name / "result").touch()
            raise KeyError
        elsewhere(enter, tmp_path / name)

    fail("empty", keep=False)
    fail("full", keep=True)
    (tmp_path / "there").mkdir()
    fail("there", keep=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "there"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["result"]


def test_a_place_that_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"^path: expected a place to write to; got .*file"):
        enter(tmp_path / "file")
    with locked(None):
        pass


def run_decompose(folder):
    sizes = {"n_subnetworks": 2, "rank": 1, "steps": 2, "batch_size": 8}
    decompose(torch.nn.Linear(3, 2), torch.randn(40, 3), out=folder, progress=False, **sizes)


# Nothing of a task is looked at before the folder is one's own.
def run_build(folder):
    stages.build_stage(object.__new__(Task), BasisConfig(), folder)


def run_edges(folder):
    stages.edges_stage(object.__new__(Task), BasisConfig(), folder)


def run_ablate(folder):
    stages.ablate_stage(object.__new__(Task), folder, 0.1)


ACTIONS = [run_decompose, run_build, run_edges, run_ablate, stages.modules_stage, report_stage]


@pytest.mark.parametrize("action", ACTIONS)
def test_it_is_asked_for_wherever_a_run_goes_on_from_a_folder(tmp_path, action):
    with locked(tmp_path):
        with pytest.raises(BlockingIOError, match="another process"):
            elsewhere(action, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_who_comes_next_removes_what_was_half_written(tmp_path):
    left = tmp_path / ".a.json.0123456789abcdef0123456789abcdef.tmp"
    left.touch()
    (tmp_path / "mine.tmp").touch()
    with locked(tmp_path):
        assert not left.exists()
        left.touch()  # of whoever has the folder: not removed when it is asked for again
        with locked(tmp_path):
            assert left.exists()
    assert {path.name for path in tmp_path.iterdir()} == {left.name, "mine.tmp"}
