"""The bases of all node layers of a chain, from the last one back, saved layer by layer.

Takes a chain and data; gives the Local Interaction Basis and, from the same moments, the PCA baseline. A
folder makes it resumable: layers that are there already are read instead of made.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from subscape._checks import require
from subscape._hash import sha256_of
from subscape._io import read_json, read_metadata, read_tensors, write_json, write_tensors
from subscape._progress import bar
from subscape.interaction_basis.basis import (
    LayerBasis,
    from_tensors,
    lib_basis,
    pca_basis,
    raw_basis,
    to_tensors,
)
from subscape.interaction_basis.chain import Chain, batches, check_chain, require_finite
from subscape.interaction_basis.jacobian import jacobian_gram
from subscape.interaction_basis.moments import Moments, node_moments
from subscape.interaction_basis.probes import Signs
from subscape.interaction_basis.quadrature import GRADIENT, Baseline, Quadrature, gauss_legendre

Target = Literal["next", "final"]
Last = Literal["pca", "raw"]
SAME = 1e-3
"""Relative difference of a model's outputs up to which it counts as the one a folder was begun with."""
N_OUTPUTS = 16
"""Numbers of a model's outputs that are compared."""


@dataclass(frozen=True)
class BasisConfig:
    """Settings of the bases; the defaults are the published method."""

    target: Target = "next"
    """Jacobians to the next node layer, or to the last one (the non-local Interaction Basis)."""
    last: Last = "pca"
    """Basis of the last node layer: principal directions, or its own coordinates (logits)."""
    rtol: float | None = None
    """Share of the largest variance below which a direction is dropped; None is rounding noise."""
    importance_rtol: float | None = None
    """The same for importances."""
    sign_positions: int | None = None
    """Random-sign draws over output positions; None is exact."""
    sign_directions: int | None = None
    """Random-sign draws over output directions; None is exact."""
    seed: int = 0
    """Of the random signs."""
    path_points: int = 0
    """Gauss-Legendre points between the baseline and the activations; 0 is the gradient at the latter."""
    baseline: Baseline = "mean"
    """Start of the path."""
    batch_size: int = 256
    """Samples that run together."""
    allow_low_rank: bool = False
    """Whether to go on with fewer data points than a node layer is wide."""

    def __post_init__(self) -> None:
        for name, least in (("path_points", 0), ("batch_size", 1)):
            n = getattr(self, name)
            require(n >= least, name, f"a whole number of at least {least}", n)
        for name in ("sign_positions", "sign_directions"):
            n = getattr(self, name)
            require(n is None or n >= 1, name, "a whole number of at least 1, or None", n)
        for name, known in (("target", Target), ("last", Last), ("baseline", Baseline)):
            value, expected = getattr(self, name), " or ".join(map(repr, get_args(known)))
            require(value in get_args(known), name, expected, repr(value))

    @property
    def quadrature(self) -> Quadrature:
        """Points and weights along the path."""
        return gauss_legendre(self.path_points) if self.path_points else GRADIENT

    @property
    def signs(self) -> Signs:
        """Random signs, if any."""
        return Signs(self.sign_positions, self.sign_directions, self.seed)


@dataclass(frozen=True)
class Bases:
    """One basis per node layer, of both methods."""

    lib: tuple[LayerBasis, ...]
    pca: tuple[LayerBasis, ...]
    config: BasisConfig

    def of(self, method: str) -> tuple[LayerBasis, ...]:
        """The bases of `lib` or `pca`."""
        require(method in ("lib", "pca"), "method", "'lib' or 'pca'", repr(method))
        return self.lib if method == "lib" else self.pca


def build_bases(
    chain: Chain,
    inputs: Tensor,
    config: BasisConfig | None = None,
    *,
    gram_inputs: Tensor | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Bases:
    """Compute the bases of all node layers from Jacobians over `inputs`.

    Means and covariances are those of `gram_inputs`, best far more data. Every layer is saved in `folder` as soon
    as it is made, and a later call goes on from there.
    """
    config = config or BasisConfig()
    check_chain(chain, inputs)
    gram_inputs = inputs if gram_inputs is None else gram_inputs
    where = None if folder is None else Path(folder)
    if where is not None:
        _claim(where, _identity(chain, inputs, gram_inputs, config))
    done: dict[int, dict[str, LayerBasis]] = {}
    moments = None
    n = len(chain)
    for layer in bar("bases", range(n, -1, -1), progress=progress, unit="layer"):
        path = where and where / "layers" / f"{layer:03}.safetensors"
        # A layer depends on those after it, so the first that is not there ends those made before.
        if path and path.exists() and moments is None:
            done[layer] = read_layer(path, chain.embed(inputs[:1]).device)
            continue
        if moments is None:
            moments = node_moments(
                chain,
                gram_inputs,
                batch_size=config.batch_size,
                allow_low_rank=config.allow_low_rank,
                progress=progress,
            )
        done[layer] = _layer(chain, inputs, config, moments, layer, done)
        if path:
            tensors, rest = to_tensors(done[layer])
            write_tensors(path, tensors, {"bases": json.dumps(rest)})
            # Read back, as a run that goes on reads it: how numbers lie in memory changes their products.
            done[layer] = read_layer(path, chain.embed(inputs[:1]).device)
    lib, pca = (tuple(done[layer][method] for layer in range(n + 1)) for method in ("lib", "pca"))
    return Bases(lib, pca, config)


def activations(chain: Chain, layer: int, inputs: Tensor, batch_size: int) -> Generator[Tensor]:
    """Activations of one node layer, batch by batch."""
    for batch in batches(inputs, batch_size):
        with torch.no_grad():
            values = chain.nodes(batch, layer)[-1]
        require_finite(chain.names[layer], values)
        yield values


def _layer(
    chain: Chain,
    inputs: Tensor,
    config: BasisConfig,
    moments: tuple[Moments, ...],
    layer: int,
    done: Mapping[int, Mapping[str, LayerBasis]],
) -> dict[str, LayerBasis]:
    """Both bases of a node layer, given those of the ones after it."""
    name, n = chain.names[layer], len(chain)
    if layer == n and config.last == "raw":
        mean = moments[n].mean
        raw = raw_basis(name, len(mean), mean.device)
        return {"lib": raw, "pca": raw}
    pca = pca_basis(name, moments[layer], rtol=config.rtol, n_isolated=chain.n_isolated(layer))
    if layer == n:
        return {"lib": pca, "pca": pca}
    target = layer + 1 if config.target == "next" else n
    gram = jacobian_gram(
        chain.part(layer, target),
        done[target]["lib"].into,
        activations(chain, layer, inputs, config.batch_size),
        pca.mean,
        signs=config.signs,
        quadrature=config.quadrature,
        baseline=config.baseline,
    )
    return {"lib": lib_basis(pca, gram, rtol=config.importance_rtol), "pca": pca}


def read_layer(path: Path, device: torch.device) -> dict[str, LayerBasis]:
    """The bases of one node layer, `lib` and `pca`, from their file."""
    header = read_metadata(path)
    require("bases" in header, str(path), "a file of bases", "another safetensors file")
    bases = from_tensors(read_tensors(path), json.loads(header["bases"]))
    return {method: basis.to(device) for method, basis in bases.items()}


def _identity(
    chain: Chain, inputs: Tensor, gram_inputs: Tensor, config: BasisConfig
) -> dict[str, Any]:
    with torch.no_grad():
        outputs = chain.outputs(inputs[:2]).double().flatten()
    return {
        "names": list(chain.names),
        "isolated": list(chain.isolated),
        **{f"config.{name}": value for name, value in asdict(config).items()},
        "inputs": digest(inputs),
        "gram_inputs": digest(gram_inputs),
        "outputs": outputs[:: -(-len(outputs) // N_OUTPUTS)].tolist(),
    }


def digest(*tensors: Tensor) -> str:
    """A short name for the values of tensors, to know them again."""
    return sha256_of({str(place): tensor for place, tensor in enumerate(tensors)})


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Mark the folder as this run's, or see that it already is; one without a layer is nobody's yet."""
    path = folder / "build.json"
    if not path.exists() or not (folder / "layers").exists():
        write_json(path, identity)
        return
    there = read_json(path)
    other = [k for k in identity if k != "outputs" and there.get(k) != identity[k]]
    before, now = (
        torch.tensor(of.get("outputs", []), dtype=torch.float64) for of in (there, identity)
    )
    if before.shape != now.shape or (before - now).norm() > SAME * now.norm():
        other.append("model")
    require(
        not other,
        "folder",
        "a folder begun with the same model, data and settings",
        f"{folder}, which differs in {', '.join(other)}",
        "Choose another folder, or delete this one.",
    )
