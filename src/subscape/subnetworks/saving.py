"""A decomposition as a folder: config.json and subnetworks.safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import subscape._version as version
from subscape._checks import problem, require
from subscape._io import (
    holds_just,
    json_object,
    new_folder,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from subscape.gradients.geometry import Geometry
from subscape.lowrank import Layout, Stack, TensorLayout
from subscape.references import FixedOutput
from subscape.subnetworks.dictionary import Dictionary
from subscape.subnetworks.formats import AGAIN, FORMAT_VERSION, checked_config
from subscape.subnetworks.selection import build, selection_of


def save(
    folder: str | Path,
    dictionary: Dictionary,
    *,
    target: Mapping[str, Any],
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any],
    reference: FixedOutput | None,
    geometry: Geometry,
    overwrite: bool,
) -> Path:
    """Write the fields of a decomposition: all of it or nothing."""
    layout, selection = dictionary.decoder.layout, dictionary.selection
    tensors = {}
    for side, stack in (("encoder", dictionary.encoder), ("decoder", dictionary.decoder)):
        for t, pieces in zip(layout.tensors, stack.pieces().values(), strict=True):
            for key, piece in zip(piece_keys(t), pieces, strict=True):
                tensors[f"{side}.{t.name}.{key}"] = piece.detach().cpu()
    for name, values in selection.state_dict().items():
        tensors[f"selection.{name}"] = values.cpu()
    if reference is not None:
        tensors["reference.output"] = reference.output.cpu()
    tensors |= {f"geometry.{name}": t.cpu() for name, t in geometry.state().items()}
    group_size = selection.group_size
    config = {
        "format_version": FORMAT_VERSION,
        "subscape_version": version.__version__,
        "torch_version": torch.__version__,
        "method": "l3d",
        "n_subnetworks": selection.lead[-1] // group_size,
        "selection": {"kind": selection.kind, "l0": selection.l0, "group_size": group_size},
        "row_weight": geometry.row_weight,
        "target": dict(target),
        "layout": [
            {"name": t.name, "shape": list(t.shape), "form": t.form, "ranks": list(t.ranks)}
            for t in layout.tensors
        ],
        "settings": dict(settings),
        "metrics": dict(metrics),
    }
    with new_folder(folder, overwrite=overwrite, owned=is_decomposition) as temporary:
        write_json(temporary / "config.json", config)
        write_tensors(temporary / "subnetworks.safetensors", tensors)
    return Path(folder)


def load(folder: Path) -> dict[str, Any]:
    """The fields of the decomposition that was saved there, by name."""
    config = checked_config(read_json(folder / "config.json"), folder)
    file = folder / "subnetworks.safetensors"
    tensors = read_tensors(file)
    if config.threshold is not None:
        tensors["selection.threshold"] = torch.tensor(config.threshold, dtype=torch.float64)
    layout, n = Layout(config.layout), config.n_subnetworks
    for name, values in tensors.items():
        # Thresholds may be kept as logarithms.
        right = values.is_floating_point() and (
            name.startswith("selection.") or bool(values.isfinite().all())
        )
        require(right, str(file), f"finite numbers as {name}", f"{values.dtype}", AGAIN)
    group_size = config.selection.group_size
    n *= group_size
    encoder, decoder = (_stack(layout, tensors, side, n, folder) for side in ("encoder", "decoder"))
    kind, l0 = selection_of(config.selection.kind), config.selection.l0
    selection = build(kind, l0, torch.Size([n]), decoder.weights, group_size)
    for name, values in selection.state_dict().items():
        values.copy_(_tensor(tensors, f"selection.{name}", tuple(values.shape), folder))
    threshold = selection.threshold
    right = bool((threshold.isfinite() & (threshold >= 0)).all())
    require(right, str(file), "thresholds from 0 up", f"{threshold.flatten().tolist()}", AGAIN)
    output = tensors.pop("reference.output", None)
    shapes = {t.name: t.shape for t in layout.tensors}
    of_geometry = {k[9:]: v for k, v in tensors.items() if k.startswith("geometry.")}
    more = [name for name in tensors if not name.startswith("geometry.")]
    require(not more, str(file), "no other tensors than config.json says", f"{more}", AGAIN)
    weight = config.row_weight
    return {
        "dictionary": Dictionary(encoder, decoder, selection).requires_grad_(False),
        "target": config.target,
        "settings": config.settings,
        "metrics": config.metrics,
        "reference": None if output is None else FixedOutput(output),
        "geometry": Geometry.from_state(weight, of_geometry, shapes) if of_geometry else Geometry(),
    }


def is_decomposition(folder: Path) -> bool:
    """Whether `save_pretrained` wrote the folder, and nobody put anything into it."""
    return (
        holds_just(folder, "config.json", "subnetworks.safetensors")
        and json_object(folder / "config.json").get("method") == "l3d"
    )


def piece_keys(tensor: TensorLayout) -> list[str]:
    """Names of the pieces of a tensor in a saved file, in the order of its `piece_shapes`."""
    factors = [f"factors.{mode}" for mode in tensor.factored_modes]
    return factors if tensor.form == "cp" else ["core", *factors]


def _stack(layout: Layout, tensors: dict[str, Tensor], side: str, n: int, folder: Path) -> Stack:
    parts = [
        _tensor(tensors, f"{side}.{t.name}.{key}", (n, *shape), folder).reshape(n, -1)
        for t in layout.tensors
        for key, shape in zip(piece_keys(t), t.piece_shapes, strict=True)
    ]
    return Stack(layout, torch.cat(parts, dim=1))


def _tensor(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], folder: Path) -> Tensor:
    if name not in tensors or tuple(tensors[name].shape) != shape:
        raise ValueError(
            problem(
                str(folder / "subnetworks.safetensors"),
                f"{name} of shape {list(shape)}",
                f"{list(tensors[name].shape) if name in tensors else 'no such tensor'}",
                "The file does not go with config.json: save the decomposition again.",
            )
        )
    return tensors.pop(name)
