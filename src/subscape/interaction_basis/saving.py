"""Bases and graphs as files: safetensors with their names in the header, JSON beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from subscape._checks import problem
from subscape._io import read_metadata, read_tensors, write_tensors
from subscape.interaction_basis.basis import Kind, LayerBasis

FIELDS = ("mean", "into", "back", "importance")


def write_layer(path: Path, lib: LayerBasis, pca: LayerBasis) -> None:
    """Write both bases of one node layer to a safetensors file."""
    tensors, header = {}, {}
    for key, basis in (("lib", lib), ("pca", pca)):
        some, header[key] = basis_to_tensors(basis, key)
        tensors |= some
    write_tensors(path, tensors, {"bases": json.dumps(header)})


def read_layer(path: Path) -> tuple[LayerBasis, LayerBasis]:
    """The Local Interaction Basis and the baseline that `write_layer` wrote."""
    header, tensors = read_metadata(path), read_tensors(path)
    if "bases" not in header:
        raise ValueError(problem(str(path), "a file of bases", "another safetensors file"))
    described = json.loads(header["bases"])
    return (
        basis_from_tensors(described["lib"], tensors, "lib"),
        basis_from_tensors(described["pca"], tensors, "pca"),
    )


def basis_to_tensors(basis: LayerBasis, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A basis as tensors, their names prefixed by `key`, and the rest as JSON can hold it."""
    tensors = {f"{key}.{field}": getattr(basis, field) for field in FIELDS}
    return tensors, {"name": basis.name, "kind": basis.kind, "n_isolated": basis.n_isolated}


def basis_from_tensors(
    described: dict[str, Any], tensors: dict[str, Tensor], key: str
) -> LayerBasis:
    """Put a basis together again."""
    mean, into, back, importance = (tensors[f"{key}.{field}"] for field in FIELDS)
    kind = cast(Kind, described["kind"])
    return LayerBasis(
        described["name"], kind, mean, into, back, importance, described["n_isolated"]
    )
