"""`subscape edit`: move a model along subnetworks, see what it says then, and keep the edit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from subscape._checks import problem, require
from subscape._io import check_free, holds_just, json_object, new_folder, write_json
from subscape.cli.run_folder import Run, check_index, open_run
from subscape.finetuning import Finetuned
from subscape.subnetworks.lora import is_adapter

RECORD = "edit.json"
"""In the folder of an edited model: the edit, and the names of all files, by which it is told."""

MOST_TOKENS = 100_000


@dataclass(frozen=True)
class EditRun:
    """Move a model along subnetworks, W0 + Σ δ_k v_k; print what it says before and after, or keep it.

    Example: subscape edit runs/attention --set 3=0.5 17=-1 --prompt "Once upon a time"
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, or the folder of a saved decomposition."""
    set: tuple[str, ...] = ()
    """Moves as SUBNETWORK=δ; a subnetwork has length 1."""
    coefficients: Path | None = None
    """Folder of moves that `subscape finetune` learned; --set goes over them."""
    tensors: tuple[str, ...] = ("*",)
    """Globs over the run's tensors; the others are not moved."""
    prompt: str | None = None
    """Text that a causal language model goes on with, before and after."""
    max_new_tokens: int = 40
    """Tokens to generate, the likeliest one each time."""
    lora: Path | None = None
    """Write the edit as a LoRA adapter that PEFT loads."""
    save: Path | None = None
    """Write the edited Hugging Face model with its tokenizer."""
    model: str | None = None
    """The model, if the run does not name it."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Call the functions that the run names as its model. They may do anything."""
    overwrite: bool = False
    """Replace an earlier edit that --lora or --save finds there."""
    json: bool = False
    """Print the result as JSON."""


def run(settings: EditRun) -> dict[str, Any]:
    """Carry out the command."""
    some = bool(settings.set) or settings.coefficients is not None
    repair = "Add --set 3=0.5, or --coefficients FOLDER."
    require(some, "set", "moves such as 3=0.5", "none", repair)
    deltas = parse_deltas(settings.set)
    asked = (settings.prompt, settings.lora, settings.save) != (None, None, None)
    expected = "something to do with the edit: --prompt, --lora or --save"
    require(asked, "prompt", expected, "none of them", "See subscape edit --help.")
    for name, path, owned in (
        ("lora", settings.lora, is_adapter),
        ("save", settings.save, _is_edited_model),
    ):
        if path is not None:
            check_free(path, overwrite=settings.overwrite, owned=owned, folder=True, name=name)
    opened = open_run(settings.run, settings.model, trust=settings.trust, device=settings.device)
    for index in deltas:
        check_index(opened, index)
    if settings.coefficients is not None:
        learned = Finetuned.from_pretrained(settings.coefficients, opened.decomposition)
        deltas = learned.deltas | deltas
    target = opened.target()
    model = target.model
    found: dict[str, Any] = {"deltas": {str(k): d for k, d in deltas.items()}}
    edit = opened.decomposition.edit(model, deltas, tensors=settings.tensors)
    if settings.prompt is not None:
        before = _generate(opened, model, settings)
        with edit:
            after = _generate(opened, model, settings)
        found |= {"prompt": settings.prompt, "before": before, "after": after}
    if settings.lora is not None:
        opened.decomposition.save_lora(
            settings.lora,
            model,
            deltas,
            tensors=settings.tensors,
            overwrite=settings.overwrite,
        )
        found["lora"] = str(settings.lora)
    if settings.save is not None:
        found["save"] = str(_save(opened, edit, deltas, settings))
    print(json.dumps(found) if settings.json else _text(found))
    return found


def parse_deltas(moves: tuple[str, ...]) -> dict[int, float]:
    """`("3=0.5", "17=-1")` as {3: 0.5, 17: -1.0}."""
    deltas: dict[int, float] = {}
    for move in moves:
        name, _, size = move.partition("=")
        try:
            index, delta = int(name), float(size)
        except ValueError as error:
            expected = "SUBNETWORK=δ such as 3=0.5 or 17=-1"
            raise ValueError(problem("set", expected, repr(move))) from error
        require(index not in deltas, "set", "one δ per subnetwork", f"two for {index}")
        deltas[index] = delta
    return deltas


def _generate(opened: Run, model: Any, settings: EditRun) -> str | None:
    """What the model goes on with; None if its logits are not finite."""
    tokenizer = opened.tokenizer()
    if tokenizer is None or not hasattr(model, "generate"):
        expected, repair = (
            "a causal language model with a tokenizer",
            "Prompts are for Hugging Face models.",
        )
        raise ValueError(problem("prompt", expected, f"{opened.model}", repair))
    n = settings.max_new_tokens
    require(1 <= n <= MOST_TOKENS, "max_new_tokens", f"from 1 to {MOST_TOKENS:,}", n)
    inputs = tokenizer(settings.prompt, return_tensors="pt")
    ids = inputs["input_ids"].to(next(model.parameters()).device)
    require(ids.numel() > 0, "prompt", "a text of at least one token", repr(settings.prompt))
    with torch.no_grad():
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id or 0,
            return_dict_in_generate=True,
            output_logits=True,
        )
    if not all(torch.isfinite(logits).all() for logits in written.logits):
        return None
    return tokenizer.decode(written.sequences[0, ids.shape[1] :], skip_special_tokens=True)


def _save(opened: Run, edit: Any, deltas: dict[int, float], settings: EditRun) -> Path:
    assert settings.save is not None
    repair = "Save the state dict of decomposition.edited(model, deltas) in Python."
    ours = hasattr(edit.model, "save_pretrained")
    require(ours, "save", "a Hugging Face model", f"{opened.model}", repair)
    with (
        new_folder(settings.save, settings.overwrite, _is_edited_model) as temporary,
        edit as model,
    ):
        model.save_pretrained(temporary)
        tokenizer = opened.tokenizer()
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        moves = [f"{k}={delta:g}" for k, delta in deltas.items()]
        edit_of = {"model": opened.model, "set": moves, "tensors": settings.tensors}
        files = sorted(path.name for path in temporary.iterdir())
        write_json(temporary / RECORD, {**edit_of, "files": files})
    return settings.save


def _is_edited_model(folder: Path) -> bool:
    """Whether `--save` wrote the folder, and nobody put anything into it."""
    files = json_object(folder / RECORD).get("files", [])
    return holds_just(folder, RECORD, *files)


def _text(found: dict[str, Any]) -> str:
    lines = []
    if "prompt" in found:
        lines.append(f"prompt  {found['prompt']}")
        for when in ("before", "after"):
            text = found[when]
            shown = "outputs are not finite: take a smaller δ" if text is None else text
            lines += ["", f"{when:<6}  {shown}"]
    for key, word in (("lora", "LoRA adapter"), ("save", "edited model")):
        if key in found:
            lines.append(f"{word} in {found[key]}")
    return "\n".join(lines)
