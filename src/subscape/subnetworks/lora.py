"""An intervention as a LoRA adapter: a folder that plain PEFT loads.

Σ δ_k v_k of a weight matrix has at most the rank of its subnetworks together, so it is written exactly as
B A with A [rank, in] and B [out, rank], and a scale of 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from subscape._checks import problem, require
from subscape._io import holds_just, new_folder, read_metadata, write_json, write_tensors
from subscape._shapes import Float

SMALL = 1e-6
"""Singular values below this share of the largest are rounding of the low-rank product in float32."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MADE_BY = {"format": "pt", "made_by": "subscape"}
"""Header of the weights."""


def save_lora(
    folder: str | Path,
    model: nn.Module,
    change: Mapping[str, Float[Tensor, "..."]],
    *,
    overwrite: bool = False,
) -> Path:
    """Write a change of weight matrices as a LoRA that `peft.PeftModel.from_pretrained` loads."""
    modules = dict(model.named_modules())
    # PEFT merges an adapter into a tied weight once for every layer that has it, which is too often.
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    tied = {name for name, p in model.named_parameters() if uses[id(p)] > 1}
    transposed = {name: _is_transposed(modules, name) for name in change}
    refused = [name for name, way in transposed.items() if way is None or name in tied]
    if refused:
        raise ValueError(
            problem(
                "tensors",
                "weights of linear layers that are not tied, which are what a LoRA changes",
                f"also {refused}",
                f"Leave them out (tensors=['*', '!{refused[0]}']), or edit a copy and save it whole.",
            )
        )
    require(
        len(set(transposed.values())) <= 1,
        "tensors",
        "layers of one kind",
        "Linear and Conv1D together, which one LoRA does not hold",
        "Export them one after the other: tensors='…'.",
    )
    pairs = {
        name: _factors(values.mT if transposed[name] else values) for name, values in change.items()
    }
    rank = max(a.shape[0] for a, _ in pairs.values())
    tensors = {}
    for name, (a, b) in pairs.items():
        module = name.removesuffix(".weight")
        key = f"base_model.model.{module}"
        # One rank for all modules, the rest zeros: alpha = rank is then a scale of 1 everywhere.
        tensors[f"{key}.lora_A.weight"] = nn.functional.pad(a, (0, 0, 0, rank - a.shape[0]))
        tensors[f"{key}.lora_B.weight"] = nn.functional.pad(b, (0, rank - b.shape[1]))
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": getattr(model, "name_or_path", None) or None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": next(iter(transposed.values())),
        # An expression, as PEFT takes a list for endings: "0" would also be the layer "blocks.0".
        "target_modules": "|".join(re.escape(name.removesuffix(".weight")) for name in pairs),
    }
    with new_folder(folder, overwrite=overwrite, owned=is_adapter) as temporary:
        write_json(temporary / CONFIG, config)
        write_tensors(temporary / WEIGHTS, tensors, MADE_BY)
    return Path(folder)


def is_adapter(folder: Path) -> bool:
    """Whether `save_lora` wrote the folder, and nobody put anything into it."""
    try:
        return holds_just(folder, CONFIG, WEIGHTS) and read_metadata(folder / WEIGHTS) == MADE_BY
    except ValueError:
        return False


def _is_transposed(modules: Mapping[str, nn.Module], name: str) -> bool | None:
    """Whether the weight is [in, out]; None if the parameter is no linear layer's weight."""
    module = modules.get(name.removesuffix(".weight"))
    if module is None or not name.endswith(".weight"):
        return None
    if isinstance(module, nn.Linear):
        return False
    # Hugging Face's Conv1D, by name: transformers is not a dependency.
    return True if type(module).__name__ == "Conv1D" else None


def _factors(
    change: Float[Tensor, "out in"],
) -> tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]:
    """A and B with B A = change, of the smallest rank."""
    u, s, v = torch.linalg.svd(change.detach().cpu().double(), full_matrices=False)
    rank = max(1, int((s > SMALL * s[0]).sum()))
    root = s[:rank].sqrt()
    a, b = root[:, None] * v[:rank], u[:, :rank] * root
    return a.to(change.dtype), b.to(change.dtype)
