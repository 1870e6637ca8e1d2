"""What a configuration file of `subscape basis` says, and the task that it names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from subscape._checks import problem, require
from subscape.cli import loading, models
from subscape.interaction_basis.build import BasisConfig
from subscape.interaction_basis.cuts import Layout, main_output
from subscape.interaction_basis.modules import Library
from subscape.interaction_basis.required import Midpoint
from subscape.interaction_basis.task import Task, decoder_task
from subscape.interaction_basis.whole_model import model_task
from subscape.reproduce.digits import digits_task
from subscape.reproduce.modular_addition import modular_addition_task


@dataclass(frozen=True)
class BasisFile:
    """What a configuration file says; every run folder keeps a copy as basis.toml."""

    task: str = "digits"
    """modular-addition, digits, decoder, model, or package.module:function that returns a Task."""
    out: str = ""
    """Run folder; by default runs/ and the name of the file."""
    weights: str = ""
    """modular-addition: a safetensors file; decoder: a Hugging Face folder."""
    text: str = ""
    """decoder: a text file."""
    scored_text: str = ""
    """decoder: another one to score on."""
    model: str = ""
    """model: a Hugging Face folder, or package.module:function that returns the module."""
    data: str = ""
    """model: .npy, .npz or .safetensors with `inputs` and, for the accuracy, `labels`; a text; or
    package.module:function."""
    cuts: tuple[str, ...] = ()
    """model: names of modules behind which it is cut, `input` and `output`."""
    layout: Layout = "channel"
    """model: how images lie in a node layer."""
    home: str = ""
    """Folder in which modules of one's own are looked for too, from the run folder."""
    length: int = 128
    """decoder, model: tokens in a window of a text."""
    n_sequences: int = 400
    """decoder, model: samples for Jacobians and edges, at most."""
    n_scored: int = 32
    """decoder, model: samples to score."""
    seed: int = 0
    """Of the task's split or choice of data, and of the communities."""
    tolerance: float = 0.001
    """How much worse the score may get."""
    midpoint: Midpoint = "linear"
    """How the bisection halves: linear as published, log for large graphs."""
    curves: bool = True
    """Whether to measure the ablation curves too."""
    resolution: float = 1.0
    """Of the communities; a higher one makes smaller modules."""
    library: Library = "louvain"
    """What finds the communities."""
    random_rotation: bool = False
    """Whether to count the edges that principal directions rotated at random require, too."""
    last_layer: bool = False
    """Whether the last node layer takes part in modules; logits do not, as published."""
    basis: BasisConfig = field(default_factory=BasisConfig)
    """Settings of the bases, as the table [basis]."""


def load_task(config: BasisFile) -> Task:
    """Make the task that a configuration names."""
    match config.task:
        case "digits":
            return digits_task(config.seed)
        case "modular-addition":
            return modular_addition_task(_file(config, "weights"), config.seed)
        case "decoder":
            models.quiet_transformers()  # silences its notes
            return decoder_task(
                _model_folder(config),
                _file(config, "text"),
                scored_text=_file(config, "scored_text") if config.scored_text else None,
                length=config.length,
                n_sequences=config.n_sequences,
                n_scored=config.n_scored,
                seed=config.seed,
            )
        case "model":
            with loading.beside(config.home):
                return _model_task(config)
        case name if ":" in name:
            with loading.beside(config.home):
                task = loading.called(name, "task")
            got, isa = type(task).__name__, isinstance(task, Task)
            require(isa, "task", f"a Task from {name}", got, "Return one.", error=TypeError)
            return task
        case name:
            expected = "modular-addition, digits, decoder, or package.module:function"
            raise ValueError(problem("task", expected, repr(name)))


def _model_task(config: BasisFile) -> Task:
    model, outputs = loading.load_model(config.model)
    samples = loading.load_data(config.data, config.model, config.length)
    if not isinstance(samples, torch.Tensor):
        padded = "attention_mask" in samples
        require(not padded, "model", "a model of windows of text", "one of whole, padded texts")
        inputs = samples.get("input_ids")
        got = f"tensors {sorted(samples)}"
        require(inputs is not None, "data", "one tensor of inputs, or input_ids", got)
        samples = inputs
    assert samples is not None
    words = None
    if config.data.endswith(".txt"):
        tokenizer = loading.load_tokenizer(config.model)
        words = lambda ids: tokenizer.convert_ids_to_tokens(ids.tolist())  # noqa: E731
    return model_task(
        model,
        config.cuts,
        samples,
        labels=loading.load_labels(config.data),
        layout=config.layout,
        outputs=outputs or main_output,
        n_samples=config.n_sequences,
        n_scored=config.n_scored,
        seed=config.seed,
        words=words,
    )


def _file(config: BasisFile, name: str) -> Path:
    return _checked(config, name, Path(getattr(config, name)).is_file(), "a file")


def _model_folder(config: BasisFile) -> Path:
    there = bool(config.weights) and (Path(config.weights) / "config.json").is_file()
    return _checked(config, "weights", there, "a Hugging Face folder with its config.json")


def _checked(config: BasisFile, name: str, there: bool, what: str) -> Path:
    require(
        there,
        name,
        f"a path that exists, of {what} for the task {config.task!r}",
        repr(getattr(config, name)),
        "Set it in the configuration file; paths are taken from the file's folder.",
    )
    return Path(getattr(config, name))
