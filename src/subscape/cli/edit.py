"""`subscape edit`: move a model along subnetworks, see what it says then, and keep the edit."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from subscape._checks import problem, require
from subscape._io import check_free, holds_just, json_object, new_folder, write_json
from subscape.cli.names import token_namer
from subscape.cli.run_folder import Run, check_index, open_run
from subscape.data import Samples
from subscape.divergences import DIVERGENCES
from subscape.finetuning import Finetuned
from subscape.measures import Measures
from subscape.measures.record import rounded
from subscape.measures.response import shifts
from subscape.subnetworks.lora import is_adapter

N_TOKENS = 6
"""Next tokens to show."""
RECORD = "edit.json"
"""In the folder of an edited model: the edit, and the names of all files, by which it is told."""

MOST_TOKENS = 100_000


@dataclass(frozen=True)
class EditRun:
    """Move a model along subnetworks, W0 + Σ δ_k v_k; print what that changes, or save it.

    Every change stands beside that of random directions of the same norms and ranks.

    Example: subscape edit runs/attention --set 3 17=-2x --prompt "Once upon a time"
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, or the folder of a saved decomposition."""
    set: tuple[str, ...] = ()
    """Moves: SUBNETWORK alone goes to the δ at which it was measured, on the side where its own rows move most;
    SUBNETWORK=2x to twice, =-1x to the opposite of that; SUBNETWORK=0.5 to that δ (a subnetwork has length 1)."""
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
    """Call the functions that the run names as its model and data. They can run any code."""
    overwrite: bool = False
    """Replace an earlier edit that --lora or --save finds there."""
    json: bool = False
    """Print the result as JSON."""


def run(settings: EditRun) -> dict[str, Any]:
    """Carry out the command."""
    some = bool(settings.set) or settings.coefficients is not None
    repair = "Add --set 3, or --coefficients FOLDER."
    require(some, "set", "moves such as 3 or 3=0.5", "none", repair)
    moves = parse_moves(settings.set)
    for name, path, owned in (
        ("lora", settings.lora, is_adapter),
        ("save", settings.save, _is_edited_model),
    ):
        if path is not None:
            check_free(path, overwrite=settings.overwrite, owned=owned, folder=True, name=name)
    opened = open_run(settings.run, settings.model, trust=settings.trust, device=settings.device)
    for index in moves:
        check_index(opened, index)
    measures = opened.known_measures()
    deltas = {k: size * (_own(measures, k) if own else 1) for k, (size, own) in moves.items()}
    if settings.coefficients is not None:
        learned = Finetuned.from_pretrained(settings.coefficients, opened.decomposition)
        deltas = learned.deltas | deltas
    target = opened.target()
    model = target.model
    found: dict[str, Any] = {"deltas": {str(k): d for k, d in deltas.items()}}
    edit = opened.decomposition.edit(model, deltas, tensors=settings.tensors)
    if settings.prompt is not None:
        before, p = _generate(opened, model, settings)
        with edit:
            after, q = _generate(opened, model, settings)
        found |= {"prompt": settings.prompt, "before": before, "after": after}
        if before is not None and after is not None:
            found["next_token"] = _next_tokens(opened, p, q)
    if opened.decomposition.settings.get("divergence") in DIVERGENCES:
        what = opened.decomposition, target, deltas, settings.tensors
        of_rows = shifts(*what, data=_data_if_there(opened), measures=measures)
        found["changes"] = [asdict(shift) for shift in of_rows]
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


def parse_moves(moves: tuple[str, ...]) -> dict[int, tuple[float, bool]]:
    """Sizes by subnetwork, and whether they count in its own δ: "7=-2x" is {7: (-2.0, True)}."""
    sizes: dict[int, tuple[float, bool]] = {}
    for move in moves:
        name, given, size = move.partition("=")
        try:
            index, number = int(name), float(size.removesuffix("x")) if given else 1.0
        except ValueError as error:
            expected = "SUBNETWORK, SUBNETWORK=2x or SUBNETWORK=δ such as 3, 3=2x or 17=-1"
            raise ValueError(problem("set", expected, repr(move))) from error
        require(index not in sizes, "set", "one δ per subnetwork", f"two for {index}")
        sizes[index] = number, not given or size.endswith("x")
    return sizes


def _own(measures: Measures | None, index: int) -> float:
    """The δ that a subnetwork was measured at, on the side where its own rows move most."""
    delta = None if measures is None else measures[index].delta
    if measures is None or delta is None:
        got = "a run that is not measured" if measures is None else f"{index}, which has none"
        repair = f"Measure first: subscape measure RUN, or say how far: --set {index}=0.5."
        raise ValueError(problem("set", "a subnetwork with a measured δ", got, repair))
    return delta * measures[index].side


def _data_if_there(opened: Run) -> Samples | None:
    """The data of the run, which an edit can do without."""
    if opened.data is None or "data" in opened.untrusted:
        return None
    try:
        return opened.samples()
    except ValueError as error:
        warnings.warn(f"nothing is said of rows drawn at random: {error}", stacklevel=2)
        return None


def _next_tokens(opened: Run, before: Tensor, after: Tensor) -> list[tuple[str, float, float]]:
    """The next tokens whose probability changes most: before, and after."""
    name = token_namer(opened.tokenizer()) or str
    which = (after - before).abs().topk(min(N_TOKENS, len(before))).indices.tolist()
    return [(name(i), rounded(float(before[i])), rounded(float(after[i]))) for i in which]


def _generate(opened: Run, model: Any, settings: EditRun) -> tuple[str | None, Tensor]:
    """What the model goes on with, None if its logits are not finite; and next tokens' probabilities."""
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
    probabilities = written.logits[0][0].float().softmax(0).cpu()
    if not all(torch.isfinite(logits).all() for logits in written.logits):
        return None, probabilities
    new = written.sequences[0, ids.shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True), probabilities


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
    lines = ["  ".join(f"{k}: δ = {delta:+.3g}" for k, delta in found["deltas"].items())]
    if "prompt" in found:
        lines.append(f"prompt  {found['prompt']}")
        for when in ("before", "after"):
            text = found[when]
            shown = "outputs are not finite: take a smaller δ" if text is None else text
            lines += ["", f"{when:<6}  {shown}"]
    if "next_token" in found:
        lines += ["", f"diff    {_difference(found['before'], found['after'])}", "", "next token"]
        lines += [f"  {t!r:<12} {p:>6.1%} → {q:>6.1%}" for t, p, q in found["next_token"]]
    if found.get("changes"):
        unit = found["changes"][0]["unit"]
        lines += ["", f"{f'change ({unit})':<28} {'edit':>10} {'random':>10}"]
        lines += [
            f"  {c['rows']:<26} " + " ".join(_figure(c[key]) for key in ("change", "random"))
            for c in found["changes"]
        ]
    for key, word in (("lora", "LoRA adapter"), ("save", "edited model")):
        if key in found:
            lines.append(f"{word} in {found[key]}")
    if not found.keys() & {"lora", "save"}:
        lines += [
            "",
            "Further with --set K=2x or K=-1x; keep it with --lora FOLDER or --save FOLDER",
        ]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return f"{'not finite' if value is None else f'{value:.3g}':>10}"


def _difference(before: str, after: str) -> str:
    """Words taken away in [- -], words that came in {+ +}."""
    if before == after:
        return "none: the same, word for word"
    old, new = before.split(), after.split()
    parts = []
    for kind, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            parts += old[i:j]
            continue
        gone, come = " ".join(old[i:j]), " ".join(new[k:m])
        parts += ([f"[-{gone}-]"] if gone else []) + ([f"{{+{come}+}}"] if come else [])
    return " ".join(parts)
