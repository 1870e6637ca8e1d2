"""Files and folders: JSON and safetensors, each written whole or not at all, never pickled.

Everything is first written under a temporary sibling name and renamed into place at the end, so
a reader never sees half a file and an interrupted write leaves nothing behind. What a file or
folder means is not known here.
"""

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import safetensors
import safetensors.torch
from torch import Tensor

from subscape._checks import problem

Owned = Callable[[Path], bool]
"""Whether what stands at a path is an earlier result of the same kind, which alone may be replaced."""

LOCK = ".lock"
"""Of a folder in use; see `_lock`."""
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp")
_REPAIR = "It was cut short or is not ours: write it again, or copy it again from its source."


def write_json(path: str | Path, obj: object) -> None:
    """Write what `json` can write; numbers must be finite, as JSON has no NaN. Folders are made if need be."""
    text = json.dumps(obj, indent=2, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def regular(path: str | Path) -> Path:
    """The path, refused if what is there is no regular file: a pipe or a device may have no end."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(problem(str(path), "a regular file", "a folder, a pipe or a device"))
    return path


def read_text(path: str | Path) -> str:
    """Read text in UTF-8; other bytes are refused by name."""
    try:
        return regular(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        repair = "Convert it, such as by iconv -t UTF-8."
        raise ValueError(problem(str(path), "text in UTF-8", f"{error}", repair)) from error


def read_json(path: str | Path) -> Any:
    """Read a JSON file; one that is damaged is refused by name."""
    try:
        return json.loads(regular(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(problem(str(path), "a JSON file", f"{error}", _REPAIR)) from error


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none, for telling what a file is."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def holds_just(folder: Path, *names: str) -> bool:
    """Whether a folder holds these and nothing else."""
    return folder.is_dir() and {path.name for path in contents(folder)} == set(names)


def contents(folder: Path) -> list[Path]:
    """What a folder holds, but for the lock and half-written files that a killed process of ours left."""
    return [p for p in folder.iterdir() if p.name != LOCK and not _TEMPORARY.fullmatch(p.name)]


def remove_half_written(folder: Path) -> None:
    """Remove what killed processes left half written in a folder; for whoever has it locked."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8, with the line ends it has."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def save_figure(figure: Any, path: str | Path) -> Path:
    """Write a matplotlib figure; the ending says the kind of file."""
    path = Path(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
    return path


def append_jsonl(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append one record of finite numbers as a line of JSON."""
    line = json.dumps(dict(record), allow_nan=False) + "\n"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unbuffered, so that the line goes out in one piece and an interrupt does not tear it.
    with writable(path), path.open("ab", buffering=0) as file:
        before, rest = file.tell(), line.encode()
        try:
            # A disk that fills up takes a part of it, and says so only when asked for the rest.
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(before)
            raise


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors as a safetensors file.

    Args:
        path: The file; its folder is made if need be.
        tensors: Tensors by name; views and tensors that share memory are written out in full.
        metadata: Strings to keep in the header of the file.

    Raises:
        OSError: If the disk is full, say; the file that was there stays.
    """
    separate = _separate(tensors)
    header = None if metadata is None else dict(metadata)
    with replacing(path) as temporary:
        # safetensors hides its files from all other users; a file made here shows the usual mode.
        temporary.touch()
        usual = stat.S_IMODE(temporary.stat().st_mode)
        # It first writes under a name of its own beside the file, which a killed process would leave there.
        folder = _sibling(Path(path))
        folder.mkdir()
        try:
            safetensors.torch.save_file(separate, folder / "file", metadata=header)
            (folder / "file").replace(temporary)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        temporary.chmod(usual)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file onto the CPU; one that is not whole is refused by name."""
    try:
        return safetensors.torch.load_file(regular(path))
    except safetensors.SafetensorError as error:
        raise ValueError(_not_safetensors(path, error)) from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the metadata that `write_tensors` was given, and none of the tensors."""
    try:
        with safetensors.safe_open(regular(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise ValueError(_not_safetensors(path, error)) from error


def nobodys(_: Path) -> bool:
    """For what is never replaced."""
    return False


def check_free(
    path: str | Path,
    *,
    overwrite: bool = False,
    owned: Owned = nobodys,
    folder: bool = False,
    name: str = "path",
    expected: str = "",
) -> None:
    """Refuse a place that is taken, unless it is to be overwritten and holds an earlier result.

    Args:
        path: the file or folder to write.
        overwrite: whether an earlier result may be replaced.
        owned: recognises one.
        folder: whether a folder is to be written; an empty one is free.
        name: of the argument that gave the path.
        expected: what to ask for in the error.

    Raises:
        FileExistsError: if it is taken.
        IsADirectoryError: if a folder stands where a file is to be written.
    """
    path = Path(path)
    with writable(path):
        if not path.exists():
            return
        is_folder = path.is_dir()
        if folder and is_folder and not contents(path):
            return
    if folder and not is_folder:
        raise FileExistsError(
            problem(name, "a folder to make", f"the file {path}", "Choose another path.")
        )
    if is_folder and not folder:
        raise IsADirectoryError(
            problem(name, "a file to write", f"the folder {path}", "Name a file inside it.")
        )
    mine = (is_folder or path.is_file()) and owned(path)  # a device may have no end
    if overwrite and mine:
        return
    repair = "Choose another path."
    if mine:
        repair = "Choose another path, or replace it: overwrite=True (--overwrite)."
    elif overwrite:
        repair = "It is no earlier result, which alone is replaced: choose another path, or move it away."
    raise FileExistsError(
        problem(
            name,
            expected or ("a folder that is new or empty" if folder else "a new file"),
            f"{path}, which {'holds files' if folder else 'exists'}",
            repair,
        )
    )


@contextmanager
def new_folder(
    path: str | Path, overwrite: bool = False, owned: Owned = nobodys
) -> Generator[Path]:
    """Build a folder under a temporary name and rename it into place at success.

        with new_folder("runs/tms") as folder:
            write_json(folder / "config.json", config)

    Args:
        path: The folder to make; an empty one may stand there already.
        overwrite: Whether to replace an earlier result.
        owned: Recognises one.

    Yields:
        The temporary folder to write into. An exception removes it and leaves `path` as it was.
    """
    target = Path(path).resolve()
    _check_target(target, overwrite, owned)
    temporary = _sibling(target)
    with writable(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    try:
        yield temporary
        # Once more, as somebody else may have written there meanwhile.
        _check_target(target, overwrite, owned)
        _move_into_place(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def writable(path: str | Path) -> Generator[None]:
    """Word the errors of writing to `path` as those of any other argument, of the same type."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        number = getattr(error, "errno", None)
        if number is None and isinstance(error, OSError):  # worded already
            raise
        if said := re.search(r"os error (\d+)", str(error)):  # safetensors has it in its text only
            number = int(said[1])
        repair = "Choose another path."
        if number in FULL:
            repair = "Make room and give the same command again: what was there before is kept."
        why = f"{error}" if number is None else os.strerror(number)
        final = Path(*(_TEMPORARY.sub(r"\1", part) for part in Path(path).parts))
        raise (type(error) if isinstance(error, OSError) else OSError)(
            problem("path", "a place to write to", f"{final} ({why})", repair)
        ) from error


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A disk, a quota or the largest size of a file that is reached."""


def _check_target(target: Path, overwrite: bool, owned: Owned) -> None:
    # Replacing one of these would delete far more than an earlier result.
    if any(place.resolve().is_relative_to(target) for place in (Path.cwd(), Path.home())):
        raise FileExistsError(
            problem(
                "path",
                "a folder of its own",
                f"{target}, which holds the working or the home folder",
                "Choose a folder inside it.",
            )
        )
    check_free(target, overwrite=overwrite, owned=owned, folder=True)


def _move_into_place(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    # No rename replaces a full folder, so the old one steps aside and returns on failure.
    aside = _sibling(target)
    target.rename(aside)
    try:
        temporary.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside)


@contextmanager
def replacing(path: str | Path) -> Generator[Path]:
    """Write a file under the temporary name that is yielded, and rename it into place at success."""
    path = Path(path)
    temporary = _sibling(path)
    with writable(path):
        # In place of a device there would be a file, for everybody.
        if path.exists() and not path.is_file():
            raise FileExistsError(problem("path", "a file to write", f"{path}, which is no file"))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            # A rename may reach the disk before the content does; after a power cut the file
            # would then be empty under its final name.
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _sibling(path: Path) -> Path:
    # A name of our own, not `tempfile`'s, which would hide the result from all other users.
    return path.with_name(f".{path.name}.{uuid4().hex}.tmp")


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory, as safetensors wants them."""
    separate: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        whole = tensor.detach().contiguous()
        storage = whole.untyped_storage().data_ptr()
        separate[name] = whole.clone() if storage in storages else whole
        storages.add(storage)
    return separate


def _not_safetensors(path: str | Path, error: Exception) -> str:
    return problem(str(path), "a whole safetensors file", f"{error}", _REPAIR)
