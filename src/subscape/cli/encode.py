"""`subscape encode`: which subnetworks a text, or every row of some data, uses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from subscape._checks import problem, require
from subscape._io import check_free, read_metadata, write_tensors
from subscape.cli.names import token_namer
from subscape.cli.next_step import then
from subscape.cli.run_folder import Run, open_run
from subscape.measures.rule_names import RuleNames, rule_names

CODES = "subscape codes"
"""What a file of codes says it is."""
N_SHOWN = 5
"""Subnetworks shown for a token."""


@dataclass(frozen=True)
class EncodeRun:
    """Show which subnetworks each token of a text uses, or write the codes of data to a file.

    Examples: subscape encode runs/attention --text 'Once upon a time'

      subscape encode runs/attention --data heldout.txt --out codes.safetensors
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder."""
    text: str | None = None
    """A text to encode token by token."""
    data: str | None = None
    """Data to encode: as for decompose."""
    out: Path | None = None
    """With --data: the file that `codes` [row, subnetwork] are written to."""
    model: str | None = None
    """The model; by default that of the run."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Call the functions that the run names as its model and data. They can run any code."""
    overwrite: bool = False
    """Replace an earlier file of codes."""
    json: bool = False
    """Print as JSON."""


def run(settings: EncodeRun) -> Tensor:
    """Carry out the command."""
    one = (settings.text is None) != (settings.data is None)
    got = "both" if settings.text is not None else "neither"
    require(one, "text", "either --text or --data", got)
    opened = open_run(settings.run, settings.model, trust=settings.trust, device=settings.device)
    if settings.text is not None:
        return _text(opened, settings)
    out = settings.out
    if out is None:
        raise ValueError(problem("out", "a file for the codes of data", "none", "Give --out FILE."))
    check_free(out, overwrite=settings.overwrite, owned=_is_codes)
    target = opened.target()
    data = opened.load(settings.data or "")
    codes = opened.decomposition.encode(target, data)
    write_tensors(out, {"codes": codes.cpu()}, {"of": CODES})
    active = (codes != 0).sum(-1).float().mean()
    line = {
        "out": str(out),
        "rows": len(codes),
        "subnetworks": codes.shape[-1],
        "l0": float(active),
    }
    if settings.json:
        print(json.dumps(line))
    else:
        print(f"{len(codes):,} rows × {codes.shape[-1]} subnetworks, L0 {active:.2f}, in {out}")
    return codes


def _is_codes(path: Path) -> bool:
    return path.suffix == ".safetensors" and read_metadata(path).get("of") == CODES


def _text(opened: Run, settings: EncodeRun) -> Tensor:
    target, tokenizer = opened.target(), opened.tokenizer()
    if tokenizer is None:
        got = f"{opened.model} without one"
        raise ValueError(problem("text", "a model with a tokenizer", got, "Give --data instead."))
    ids = torch.tensor([tokenizer(settings.text)["input_ids"]])
    require(ids.numel() > 0, "text", "a text of at least one token", repr(settings.text))
    rows = opened.decomposition.settings.get("rows")
    codes = opened.decomposition.encode(target, {"input_ids": ids})
    name = token_namer(tokenizer) or str
    # Where a whole text is a row it has one code.
    tokens = [settings.text] if rows == "sample" else [name(int(i)) for i in ids[0]]
    lines = [
        {"token": token, "codes": {int(k): float(row[k]) for k in _largest(row)}}
        for token, row in zip(tokens, codes, strict=True)
    ]
    if settings.json:
        print(json.dumps(lines))
        return codes
    measures = opened.known_measures()
    names = None if measures is None else rule_names(measures)
    width = max(len(repr(token)) for token in tokens)
    for line in lines:
        shown = "   ".join(
            _shown(k, code, names) for k, code in list(line["codes"].items())[:N_SHOWN]
        )
        print(f"{line['token']!r:<{width}}  {shown or '–'}")
    largest = int(codes.abs().max(0).values.argmax())
    print(then(f"top {settings.run} --subnetwork {largest}"))
    return codes


def _largest(row: Tensor) -> list[int]:
    """Active subnetworks, largest code first."""
    order = row.abs().argsort(descending=True)
    return [int(k) for k in order if row[k] != 0]


def _shown(index: int, code: float, names: RuleNames | None) -> str:
    label = names.names.get(index) if names else None
    return f"{index} {code:+.3g}" + (f" ({label})" if label else "")
