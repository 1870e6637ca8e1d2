"""Models and data from what a command line can say: folders, files, `package.module:function`."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeGuard

import numpy
import torch
from torch import nn

from subscape._checks import optional, problem, require
from subscape._io import json_object, read_tensors, read_text
from subscape.data import Samples, as_samples, concatenated, text_windows
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


def load_model(name: str, device: torch.device | None = None) -> LoadedModel:
    """Load a model in eval mode.

    Args:
        name: `package.module:function`, which is called without arguments and returns a module or
            `(module, outputs)`; or a Hugging Face folder or hub id of a causal language model.
        device: where to; by default the CPU.
    """
    model, outputs = _users_model(name) if is_code(name) else (_language_model(name), None)
    return LoadedModel(model.eval() if device is None else model.eval().to(device), outputs)


OWN_MODEL = "For other models write package.module:function that returns the module."


def _users_model(name: str) -> tuple[nn.Module, Outputs | None]:
    result = called(name, "model")
    model, outputs = result if isinstance(result, tuple) else (result, None)
    got = type(model).__name__
    require(
        isinstance(model, nn.Module), "model", f"a torch module from {name}", got, "Return one."
    )
    return model, outputs


def _language_model(name: str) -> nn.Module:
    folder = Path(name)
    if folder.exists():
        file = folder / "config.json"
        got = "a folder without one" if folder.is_dir() else "a file"
        expected = f"a Hugging Face folder with a config.json at {name}"
        require(file.is_file(), "model", expected, got, OWN_MODEL)
        keys = json_object(file).keys()
        expected = f"a Hugging Face config.json with a model_type in {name}"
        require("model_type" in keys, "model", expected, f"keys {sorted(keys)[:6]}", OWN_MODEL)
    else:
        local = name.startswith((".", "/", "~"))
        require(not local, "model", "a folder that exists", repr(name), "Check the path.")
    auto = quiet_transformers().AutoModelForCausalLM
    try:
        model, info = auto.from_pretrained(name, trust_remote_code=False, output_loading_info=True)
    except (OSError, ValueError) as error:
        expected, repair = "a model that transformers itself has the code of", OWN_MODEL
        if isinstance(error, OSError):
            expected = (
                "a folder that exists, package.module:function, or a hub id that can be reached"
            )
            repair = "Check the spelling."
        got = f"{name!r} ({str(error).splitlines()[0]})"
        raise ValueError(problem("model", expected, got, repair)) from error
    # transformers fills them with random numbers, others at every load.
    missing = sorted(info["missing_keys"])
    require(
        not missing,
        "model",
        f"a checkpoint of a causal language model, with all weights of {type(model).__name__}",
        f"{name} without {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}",
        "Of an encoder, write package.module:function that returns its AutoModel and an outputs function, "
        "such as the mean of last_hidden_state over its tokens.",
    )
    return model


def load_data(name: str, model: str, window: int) -> Samples:
    """Samples of an array file, of a text cut to windows of so many tokens, or of a user's function."""
    require(window >= 1, "window", "at least 1 token", window)
    if is_code(name):
        return as_samples(called(name, "data"))
    path = Path(name)
    _check_there(path)
    match path.suffix:
        case ".txt":
            return text_windows(path, load_tokenizer(model), length=window)
        case ".jsonl":
            return concatenated(list(load_pairs(path, model, window)))
        case ".npy" | ".npz":
            return _only(path, _arrays(path))
        case ".safetensors":
            return _only(path, read_tensors(path))
        case _:
            raise ValueError(
                problem(
                    "data",
                    "a .txt, .npy, .npz or .safetensors file, or package.module:function",
                    repr(name),
                    "Convert it, or write a function that returns a tensor. Pairs of texts go into a .jsonl file.",
                )
            )


def _check_there(path: Path) -> None:
    require(path.is_file(), "data", "a file that exists", repr(str(path)), "Check the path.")


def is_pairs(name: str) -> bool:
    """Whether data are pairs of texts."""
    return Path(name).suffix == ".jsonl" and not is_code(name)


def load_pairs(path: Path, model: str, window: int) -> tuple[Samples, Samples]:
    """The last tokens, so many, of both texts of every line `{"a": text, "b": text}`.

    The last ones, as two texts that differ in length end at the same place.

    Raises:
        ValueError: if a line is none, or a text is shorter.
    """
    _check_there(path)
    tokenizer = load_tokenizer(model)
    sides: dict[str, list[list[int]]] = {"a": [], "b": []}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        where = f"{path} line {number}"
        try:
            texts = [str(json.loads(line)[side]) for side in sides]
        except (ValueError, KeyError, TypeError) as error:
            expected = '{"a": text, "b": text}'
            raise ValueError(problem(where, expected, repr(line[:60]))) from error
        for side, text in zip(sides.values(), texts, strict=True):
            tokens = tokenizer(text)["input_ids"]
            expected, repair = f"texts of {window} tokens", f"Give --window {len(tokens)} or less."
            require(len(tokens) >= window, where, expected, f"{len(tokens)}", repair)
            side.append(tokens[-window:])
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


def _arrays(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of an .npy or .npz file."""
    try:
        content = numpy.load(path, allow_pickle=False)
        with content if path.suffix == ".npz" else contextlib.nullcontext({"": content}) as arrays:
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


def load_tokenizer(model: str) -> Any:
    """The tokenizer that belongs to a Hugging Face model; refuses a model that has none."""
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


def quiet_transformers() -> Any:
    """The package `transformers` without its own notes and progress bars, which only hide ours."""
    package = optional("transformers", "for a Hugging Face model", "'subscape[lm]'")
    package.utils.logging.set_verbosity_error()
    package.utils.logging.disable_progress_bar()
    return package
