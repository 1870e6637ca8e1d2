"""Models and data from what a command line can say: folders, files, `package.module:function`."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy
import torch
from torch import nn

from subscape._checks import problem
from subscape._io import read_tensors
from subscape.data import Samples, as_samples, text_windows
from subscape.targets import Outputs


class LoadedModel(NamedTuple):
    """A model and, where its maker gave one, its outputs function."""

    model: nn.Module
    """In eval mode."""
    outputs: Outputs | None
    """See `subscape.Target`."""


def is_code(name: str | None) -> TypeGuard[str]:
    """Whether a name is `package.module:function`, which is imported and called."""
    return name is not None and ":" in name and not Path(name).exists()


def refuse_code(argument: str, name: str, file: Path, give: str) -> None:
    """Refuse to run what a file names, as it may come from anybody.

    Args:
        argument: what it is named for.
        name: `package.module:function`.
        file: what names it.
        give: how to name it on the command line.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        problem(
            argument,
            "code that you name yourself",
            f"{name!r}, which {file} names",
            f"Give it on the command line, {give}, or run what this file names: --trust.",
        )
    )


def load_model(name: str) -> LoadedModel:
    """Load a model by name.

    Args:
        name: `package.module:function`, which is called without arguments and returns a module or
            `(module, outputs)`; or a Hugging Face folder or hub id of a causal language model.

    Returns:
        The model in eval mode.

    Raises:
        ValueError: if there is no such model.
    """
    if is_code(name):
        made = called(name, "model")
        model, outputs = made if isinstance(made, tuple) else (made, None)
        if not isinstance(model, nn.Module):
            raise ValueError(
                problem("model", f"a torch module from {name}", type(model).__name__, "Return one.")
            )
        return LoadedModel(model.eval(), outputs)
    folder = Path(name)
    if folder.exists() and not (folder / "config.json").is_file():
        raise ValueError(
            problem(
                "model",
                f"a Hugging Face folder with a config.json at {name}",
                "a folder without one" if folder.is_dir() else "a file",
                "For other models write package.module:function that returns the module.",
            )
        )
    if folder.exists():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "model_type" not in config:
            raise ValueError(
                problem(
                    "model",
                    f"a Hugging Face config.json with a model_type in {name}",
                    f"keys {sorted(config)[:6]}",
                    "For other models write package.module:function that returns the module.",
                )
            )
    elif name.startswith((".", "/", "~")):
        raise ValueError(problem("model", "a folder that exists", repr(name), "Check the path."))
    auto = quiet_transformers().AutoModelForCausalLM
    try:
        return LoadedModel(auto.from_pretrained(name, trust_remote_code=False).eval(), None)
    except OSError as error:
        raise ValueError(
            problem(
                "model",
                "a folder that exists, package.module:function, or a hub id that can be reached",
                f"{name!r} ({str(error).splitlines()[0]})",
                "Check the spelling.",
            )
        ) from error
    except ValueError as error:
        raise ValueError(
            problem(
                "model",
                "a model that transformers itself has the code of",
                f"{name!r} ({str(error).splitlines()[0]})",
                "For other models write package.module:function that returns the module.",
            )
        ) from error


def load_data(name: str, model: str, window: int) -> Samples:
    """Load samples by name.

    Args:
        name: a text file (stories separated by <|endoftext|>, cut to windows with the model's tokenizer),
            an .npz, .npy or .safetensors file, or `package.module:function` that returns data.
        model: the model's name, for its tokenizer.
        window: tokens in a window of text.

    Returns:
        The samples.

    Raises:
        ValueError: if there is no such file, or its kind is unknown.
    """
    if is_code(name):
        return as_samples(called(name, "data"))
    path = Path(name)
    if not path.is_file():
        raise ValueError(problem("data", "a file that exists", repr(name), "Check the path."))
    match path.suffix:
        case ".txt":
            return text_windows(path, load_tokenizer(model), length=window)
        case ".npy":
            return torch.from_numpy(numpy.load(path, allow_pickle=False))
        case ".npz":
            with numpy.load(path, allow_pickle=False) as arrays:
                return _only(path, {k: torch.from_numpy(arrays[k]) for k in arrays.files})
        case ".safetensors":
            return _only(path, read_tensors(path))
        case _:
            raise ValueError(
                problem(
                    "data",
                    "a .txt, .npy, .npz or .safetensors file, or package.module:function",
                    repr(name),
                    "Convert it, or write a function that returns a tensor.",
                )
            )


def load_labels(name: str) -> torch.Tensor | None:
    """The array `labels` of an .npz or .safetensors file of samples; None where there is none.

    Args:
        name: the data's name.

    Returns:
        A class per sample.
    """
    path = Path(name)
    if not path.is_file():
        return None
    match path.suffix:
        case ".npz":
            with numpy.load(path, allow_pickle=False) as arrays:
                return torch.from_numpy(arrays["labels"]) if "labels" in arrays.files else None
        case ".safetensors":
            return read_tensors(path).get("labels")
        case _:
            return None


def load_tokenizer(model: str) -> Any:
    """The tokenizer that belongs to a Hugging Face model.

    Args:
        model: folder or hub id.

    Returns:
        The tokenizer.

    Raises:
        ValueError: if the model has none.
    """
    try:
        return quiet_transformers().AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            problem(
                "model",
                f"a tokenizer with {model}, for text",
                "none",
                "Save one in the model's folder, or give token ids in an .npz file.",
            )
        ) from error


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
def _current_folder() -> Generator[None]:
    """Modules beside the user are found. Last and not for long: they must not pass for installed ones."""
    here = str(Path.cwd())
    new = here not in sys.path
    if new:
        sys.path.append(here)
    try:
        yield
    finally:
        if new and here in sys.path:
            sys.path.remove(here)


@_current_folder()
def called(name: str, argument: str) -> Any:
    """What a user's own function gives.

    Args:
        name: `package.module:function`, which takes no arguments; modules in the current folder are found
            where none of that name is installed, until the function returns.
        argument: what it was given for, for messages.

    Returns:
        Its result.

    Raises:
        ValueError: if it cannot be imported, or raises.
    """
    module_name, _, function_name = name.partition(":")
    try:
        function: Callable[[], Any] = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            problem(
                argument,
                "package.module:function that can be imported from here",
                f"{name!r} ({error})",
                "Check the spelling, and that the module lies in this folder or is installed.",
            )
        ) from error
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


def quiet_transformers() -> Any:
    """The package `transformers` without its own notes and progress bars.

    Returns:
        The module.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        package = importlib.import_module("transformers")
        # On the command line its notes on loading and on long texts only hide ours.
        package.utils.logging.set_verbosity_error()
        package.utils.logging.disable_progress_bar()
        return package
    except ImportError as error:
        raise ValueError(
            problem(
                "model",
                "transformers to be installed for a Hugging Face model",
                "no such package",
                "pip install 'subscape[lm]'",
            )
        ) from error
