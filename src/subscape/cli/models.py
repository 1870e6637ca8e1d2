"""Models by prefix: `transformers:NAME`, `timm:NAME`, `torchvision:NAME`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from subscape._checks import optional, problem, require
from subscape._io import json_object

Pooling = Literal["mean-pool"]
"""Of a sequence one output: see `mean_pool`."""
OWN_MODEL = "For other models write package.module:function that returns the module."
LANGUAGE_MODEL = "CausalLM"
HEADS = (LANGUAGE_MODEL, "SequenceClassification", "ImageClassification")
"""What transformers models are loaded with: the one that a checkpoint was saved with, the first by default."""
BIDIRECTIONAL = ("ForMaskedLM", "ForPreTraining")
"""Heads of encoders, which transformers would also load as causal language models."""


def mean_pool(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
    """The mean of the last hidden state over tokens that are no padding, [sample, width]."""
    hidden = model(**batch).last_hidden_state
    mask = batch.get("attention_mask")
    if mask is None:
        return hidden.mean(1)
    weights = mask[..., None].to(hidden)
    return (hidden * weights).sum(1) / weights.sum(1).clamp_min(1)


def split(name: str) -> tuple[str, str]:
    """A model's prefix and the rest; of a plain folder or id `transformers`."""
    prefix, colon, rest = name.partition(":")
    return (prefix, rest) if colon and prefix in LOADERS else ("transformers", name)


def loaded(name: str, pooling: Pooling | None) -> nn.Module:
    """A model that some package has the code of."""
    prefix, rest = split(name)
    return LOADERS[prefix](rest, pooling)


def is_image_classifier(name: str) -> bool:
    """Whether the package knows nothing else by names."""
    return split(name)[0] in ("timm", "torchvision")


def reads_whole_texts(name: str, pooling: Pooling | None) -> bool:
    """Whether a sample is a text of its own, padded: of encoders and of classifiers of texts."""
    return pooling is not None or _head(split(name)[1]) == "SequenceClassification"


def load_tokenizer(name: str) -> Any:
    """The tokenizer that belongs to a Hugging Face model; refuses a model that has none."""
    prefix, rest = split(name)
    try:
        require(prefix == "transformers", "model", "a model of transformers, for text", repr(name))
        return quiet_transformers().AutoTokenizer.from_pretrained(rest, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            problem(
                "model",
                f"a tokenizer with {name}, for text",
                "none",
                "Save one in the model's folder, or give token ids in an .npz file.",
            )
        ) from error


def quiet_transformers() -> Any:
    """The package `transformers` without its own notes and progress bars, which only hide ours."""
    package = optional("transformers", "for a Hugging Face model", "'subscape[lm]'")
    package.utils.logging.set_verbosity_error()
    package.utils.logging.disable_progress_bar()
    return package


def _of_transformers(name: str, pooling: Pooling | None) -> nn.Module:
    _check_folder(name)
    head = None if pooling else _head(name) or LANGUAGE_MODEL
    auto = getattr(quiet_transformers(), f"AutoModelFor{head}" if head else "AutoModel")
    try:
        model, info = auto.from_pretrained(name, trust_remote_code=False, output_loading_info=True)
    except (OSError, ValueError) as error:
        expected, repair = "a model that transformers itself has the code of", OWN_MODEL
        got = str(error).splitlines()[0]
        if isinstance(error, OSError):
            expected = (
                "a folder that exists, package.module:function, or a hub id that can be reached"
            )
            repair = "Check the spelling."
        elif got.startswith("Unrecognized configuration class") and _architecture(name):
            expected = "a causal language model, a classifier of texts or images, or an encoder"
            got = _architecture(name)
        got = f"{name!r} ({got})"
        raise ValueError(problem("model", expected, got, repair)) from error
    _check_whole(name, model, sorted(info["missing_keys"]), head)
    return model


def _check_folder(name: str) -> None:
    """Refuse a folder that is none of transformers, before the package looks for it on the Hub."""
    folder = Path(name)
    if not folder.exists():
        local = name.startswith((".", "/", "~"))
        require(not local, "model", "a folder that exists", repr(name), "Check the path.")
        return
    file = folder / "config.json"
    got = "a folder without one" if folder.is_dir() else "a file"
    expected = f"a Hugging Face folder with a config.json at {name}"
    require(file.is_file(), "model", expected, got, OWN_MODEL)
    keys = json_object(file).keys()
    expected = f"a Hugging Face config.json with a model_type in {name}"
    require("model_type" in keys, "model", expected, f"keys {sorted(keys)[:6]}", OWN_MODEL)


def _check_whole(name: str, model: nn.Module, missing: list[str], head: str | None) -> None:
    """Refuse weights that are not in the checkpoint: transformers draws them at random, others at every load."""
    if head is None and any(key.startswith("pooler.") for key in missing):
        model.register_module("pooler", None)  # of which the mean of hidden states knows nothing
        missing = [key for key in missing if not key.startswith("pooler.")]
    expected = f"a checkpoint with all weights of {type(model).__name__}"
    got = f"{name} without {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}"
    encoder = (
        "Of an encoder give --outputs mean-pool: the mean of its last hidden state over tokens."
    )
    require(not missing, "model", expected, got, encoder if head else "Check the checkpoint.")
    saved = _architecture(name)
    causal = head != LANGUAGE_MODEL or not saved.endswith(BIDIRECTIONAL)
    require(causal, "model", "a causal language model", f"{saved}, an encoder", encoder)


def _architecture(name: str) -> str:
    """The class that a checkpoint was saved from, empty where that is not known."""
    try:
        config = quiet_transformers().AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError):
        return ""
    return next(iter(config.architectures or ()), "")


def _head(name: str) -> str | None:
    saved = _architecture(name)
    return next((head for head in HEADS if saved.endswith(f"For{head}")), None)


def _of_timm(name: str, _: Pooling | None) -> nn.Module:
    timm = optional("timm", f"for timm:{name}", "timm")
    return _by_name(name, "timm.list_models()", lambda: timm.create_model(name, pretrained=True))


def _of_torchvision(name: str, _: Pooling | None) -> nn.Module:
    models = optional("torchvision.models", f"for torchvision:{name}", "torchvision")
    known = "torchvision.models.list_models()"
    return _by_name(name, known, lambda: models.get_model(name, weights="DEFAULT"))


def _by_name(name: str, known: str, load: Callable[[], Any]) -> nn.Module:
    try:
        # Their initialisers draw numbers although weights are loaded.
        with torch.random.fork_rng(devices=[]):
            return load()
    except Exception as error:  # theirs are of many kinds
        got = f"{name!r} ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"
        expected = f"a name of {known} whose weights can be had"
        raise ValueError(problem("model", expected, got, "Check the spelling.")) from error


LOADERS: Mapping[str, Callable[[str, Pooling | None], nn.Module]] = {
    "transformers": _of_transformers,
    "timm": _of_timm,
    "torchvision": _of_torchvision,
}
