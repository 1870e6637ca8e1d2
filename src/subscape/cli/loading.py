"""Models and data from what a command line can say: folders, files, `package.module:function`."""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeGuard

import numpy
import torch
from torch import nn

from subscape._checks import problem, require
from subscape._io import read_tensors
from subscape.cli.models import (
    LOADERS,
    Pooling,
    load_tokenizer,
    loaded,
    mean_pool,
    reads_whole_texts,
)
from subscape.cli.texts import HUB, check_there, is_pairs, is_texts, lines_of, texts_of
from subscape.data import Samples, as_samples, concatenated, padded_texts, windows_of
from subscape.targets import Outputs


class LoadedModel(NamedTuple):
    """A model and, where its maker gave one, its outputs function."""

    model: nn.Module
    """In eval mode."""
    outputs: Outputs | None
    """See `subscape.Target`."""


def is_code(name: str | None) -> TypeGuard[str]:
    """Whether a name is `package.module:function`, which is imported and called."""
    if name is None or name.partition(":")[0] in (*LOADERS, HUB):
        return False
    return ":" in name and not Path(name).exists()


def refuse_code(argument: str, name: str, file: Path, give: str) -> NoReturn:
    """Refuse to run `package.module:function` that a file names, as it may come from anybody."""
    raise ValueError(
        problem(
            argument,
            "code that you name yourself",
            f"{name!r}, which {file} names",
            f"Give it on the command line, {give}, or run what this file names: --trust.",
        )
    )


def device_of(name: str) -> torch.device:
    """The device of that name; refuses one that is not there."""
    there = ["cpu"]
    if torch.cuda.is_available():
        there += ["cuda", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    require(name in there, "device", f"one that torch finds here, of {there}", repr(name))
    return torch.device(name)


def load_model(
    name: str, device: torch.device | None = None, pooling: Pooling | None = None
) -> LoadedModel:
    """Load a model in eval mode.

    Args:
        name: `package.module:function`, which is called without arguments and returns a module or
            `(module, outputs)`; a Hugging Face folder or hub id, with `transformers:` before it or not; or
            `timm:NAME` or `torchvision:NAME`.
        device: where to; by default the CPU.
        pooling: of a Hugging Face model that gives a hidden state for every token, how it becomes one output.
    """
    if is_code(name):
        expected = "to be left out, as the function that returns the model may return outputs too"
        require(pooling is None, "outputs", expected, pooling)
        model, outputs = _users_model(name)
    else:
        model, outputs = loaded(name, pooling), mean_pool if pooling else None
    return LoadedModel(model.eval() if device is None else model.eval().to(device), outputs)


def _users_model(name: str) -> tuple[nn.Module, Outputs | None]:
    result = called(name, "model")
    model, outputs = result if isinstance(result, tuple) else (result, None)
    got = type(model).__name__
    require(
        isinstance(model, nn.Module), "model", f"a torch module from {name}", got, "Return one."
    )
    return model, outputs


def load_data(name: str, model: str, window: int, pooling: Pooling | None = None) -> Samples:
    """Samples of arrays, of texts, or of a user's function.

    Texts are cut to windows of so many tokens; of models that read whole texts each is one sample, cut or padded
    to so many.

    Raises:
        ValueError: if that is not to be had.
    """
    require(window >= 1, "window", "at least 1 token", window)
    if is_code(name):
        return as_samples(called(name, "data"))
    if is_pairs(name):
        return concatenated(list(load_pairs(Path(name), model, window)))
    path = Path(name)
    if is_texts(name):
        if reads_whole_texts(model, pooling):
            texts = list(texts_of(name, by_line=True))
            return padded_texts(texts, load_tokenizer(model), length=window)
        return windows_of(texts_of(name), load_tokenizer(model), length=window, where=name)
    check_there(path)
    match path.suffix:
        case ".npy" | ".npz":
            return _only(path, _arrays(path))
        case ".safetensors":
            return _only(path, read_tensors(path))
        case _:
            raise ValueError(
                problem(
                    "data",
                    "a .txt, .jsonl, .parquet, .npy, .npz or .safetensors file, hf:org/set, or "
                    "package.module:function",
                    repr(name),
                    "Convert it, or write a function that returns a tensor.",
                )
            )


def load_pairs(path: Path, model: str, window: int) -> tuple[Samples, Samples]:
    """The last tokens, so many, of both texts of every line `{"a": text, "b": text}`.

    The last ones, as two texts that differ in length end at the same place.

    Raises:
        ValueError: if a line is none, or a text is shorter.
    """
    tokenizer = load_tokenizer(model)
    sides: dict[str, list[list[int]]] = {"a": [], "b": []}
    for where, line in lines_of(path):
        whole = all(isinstance(line.get(side), str) for side in sides)
        require(whole, where, '{"a": text, "b": text}', repr(line)[:60])
        for side, tokens_of in sides.items():
            tokens = tokenizer(line[side])["input_ids"]
            expected, repair = f"texts of {window} tokens", f"Give --window {len(tokens)} or less."
            require(len(tokens) >= window, where, expected, f"{len(tokens)}", repair)
            tokens_of.append(tokens[-window:])
    require(bool(sides["a"]), "data", f"at least one pair in {path}", "none")
    a, b = ({"input_ids": torch.tensor(side)} for side in sides.values())
    return a, b


def load_labels(name: str) -> torch.Tensor | None:
    """The array `labels`, a class per sample, of an .npz or .safetensors file; None where there is none."""
    path = Path(name)
    if not path.is_file():
        return None
    match path.suffix:
        case ".npz":
            return _arrays(path).get("labels")
        case ".safetensors":
            return read_tensors(path).get("labels")
        case _:
            return None


def load_array(path: Path, name: str) -> torch.Tensor:
    """The array of that name, or the only one, of a file of arrays."""
    arrays = read_tensors(path) if path.suffix == ".safetensors" else _arrays(path)
    got = f"{len(arrays)} arrays, {sorted(arrays)[:6]}"
    require(name in arrays or len(arrays) == 1, name, f"one array, or {name!r}, in {path}", got)
    return arrays[name] if name in arrays else next(iter(arrays.values()))


def _arrays(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of an .npy or .npz file."""
    try:
        # Opened here, as numpy leaves a file that it refuses open.
        with path.open("rb") as file:
            content = numpy.load(file, allow_pickle=False)
            arrays = content if path.suffix == ".npz" else {"": content}
            # Bytes in this machine's order.
            return {
                name: torch.from_numpy(
                    arrays[name].astype(arrays[name].dtype.newbyteorder("="), copy=False)
                )
                for name in arrays
            }
    except Exception as error:  # zipfile and numpy raise half a dozen kinds
        got = f"{path} ({type(error).__name__}: {error})"
        repair = "Save it again: numpy.savez(path, inputs=numbers)."
        expected = "a whole file of numbers, without pickled objects, that fits into memory"
        raise ValueError(problem("data", expected, got, repair)) from error


def _only(path: Path, tensors: dict[str, torch.Tensor]) -> Samples:
    if "inputs" in tensors:
        return tensors["inputs"]
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    if "input_ids" in tensors:
        return tensors
    raise ValueError(
        problem(
            "data",
            f"one array, or one called 'inputs' or 'input_ids', in {path}",
            f"{len(tensors)} arrays, {sorted(tensors)[:6]}{' …' if len(tensors) > 6 else ''}",
            "Rename the array that the model takes to 'inputs'.",
        )
    )


@contextlib.contextmanager
def beside(folder: str) -> Generator[None]:
    """Modules in a folder are found. Last and not for long: they must not pass for installed ones."""
    new = bool(folder) and folder not in sys.path
    if new:
        sys.path.append(folder)
    try:
        yield
    finally:
        if new and folder in sys.path:
            sys.path.remove(folder)


@contextlib.contextmanager
def _current_folder() -> Generator[None]:
    with beside(str(Path.cwd())):
        yield


@_current_folder()
def imported(name: str, argument: str) -> Callable[..., Any]:
    """A user's own `package.module:function`; also of modules in the current folder."""
    module_name, _, function_name = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except Exception as error:
        raise ValueError(
            problem(
                argument,
                "package.module:function that can be imported from here",
                f"{name!r} ({type(error).__name__}: {error})",
                "Check the spelling, and that the module lies in this folder or is installed.",
            )
        ) from error


@_current_folder()
def called(name: str, argument: str) -> Any:
    """What a user's own `package.module:function` gives."""
    function = imported(name, argument)
    try:
        return function()
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(
            problem(
                argument,
                "a function that runs without arguments",
                f"{name!r}, which raised {type(error).__name__}: {error} ({last.filename}:{last.lineno})",
                "Call it in Python to see more.",
            )
        ) from error
