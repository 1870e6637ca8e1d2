"""Engines that take the model whole: from inputs and ∂D/∂f to row gradients, ∇_W D = J(x)ᵀ ∂D/∂f.

Here `inputs` has one sample per row, `position` [row] says which position of the outputs a token row is
(None for sample rows), `output_gradient` [row, *output] is ∂D/∂f at that row.

- `vmap_gradients`: the whole model under vmap(grad), in chunks;
- `jacobian`: J of every sample, kept where outputs × parameters × samples is small;
- `loop_products`: row by row with plain autograd; what every other engine is tried against;
- `loop_gradients`: the same through the divergence itself, the oracle of the tests.

The engines that look into the model, rules and replays, are in `one_pass`; `plan` chooses.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from subscape._checks import problem
from subscape._shapes import Float, Int
from subscape.data import Samples, n_samples, take
from subscape.divergences import Divergence, row_values
from subscape.gradients.row_gradients import DenseRowGradients
from subscape.targets import Target


def row_outputs(
    target: Target, inputs: Samples, position: Int[Tensor, " row"] | None
) -> Float[Tensor, "row *output"]:
    """f(x) at every row, without gradient."""
    with torch.no_grad():
        outputs = target.outputs(inputs)
        if position is None:
            return outputs
        return outputs[
            torch.arange(len(outputs), device=outputs.device), position.to(outputs.device)
        ]


def vmap_gradients(
    target: Target,
    inputs: Samples,
    position: Int[Tensor, " row"] | None,
    output_gradient: Float[Tensor, "row *output"],
    *,
    names: Sequence[str] | None = None,
    chunk: int | None = None,
) -> dict[str, Float[Tensor, "row ..."]]:
    """Row gradients by vmap(grad) over the whole model."""
    chosen = target.names if names is None else names
    parameters = {name: target.parameters[name].detach() for name in chosen}
    inputs, shared = _without_shared(inputs)

    def scalar(values: dict[str, Tensor], x: Samples, at: Tensor | None, e: Tensor) -> Tensor:
        outputs = target.outputs(_as_batch(x, shared), values)[0]
        if at is not None:
            outputs = outputs.index_select(0, at[None])[0]
        return (outputs * e).sum()

    in_dims = (None, 0, None if position is None else 0, 0)
    with _outside():
        return vmap(grad(scalar), in_dims=in_dims, chunk_size=chunk)(
            parameters,
            inputs,
            None if position is None else position.to(output_gradient.device),
            output_gradient,
        )


def jacobian(
    target: Target, inputs: Samples, *, chunk: int = 64
) -> Float[Tensor, "row output parameter"]:
    """∂f/∂W of every sample at W0, for targets whose outputs × parameters are few."""
    parameters = {name: p.detach() for name, p in target.parameters.items()}
    inputs, shared = _without_shared(inputs)

    def outputs(values: dict[str, Tensor], x: Samples) -> Tensor:
        return target.outputs(_as_batch(x, shared), values)[0].flatten()

    with _outside():
        by_name = vmap(jacrev(outputs), in_dims=(None, 0), chunk_size=chunk)(parameters, inputs)
    return torch.cat([j.reshape(*j.shape[:2], -1) for j in by_name.values()], dim=2)


def loop_gradients(
    target: Target,
    inputs: Samples,
    position: Int[Tensor, " row"] | None,
    reference: Float[Tensor, "row *output"],
    divergence: Divergence,
) -> DenseRowGradients:
    """Row gradients one row at a time, by plain autograd through model and divergence.

    Slow and obviously right: the oracle that every other engine is tested against.
    """
    rows = []
    for i in range(n_samples(inputs)):
        leaves = {
            name: p.detach().clone().requires_grad_(True) for name, p in target.parameters.items()
        }
        with torch.enable_grad():  # evaluation asks without
            outputs = target.outputs(take(inputs, slice(i, i + 1)), leaves)
            if position is not None:
                outputs = outputs[:, int(position[i])]
            value = row_values(divergence, outputs, reference[i : i + 1]).sum()
        rows.append(torch.cat([g.flatten() for g in _gradients(value, list(leaves.values()))]))
    return DenseRowGradients(torch.stack(rows), target.shapes)


def loop_products(
    target: Target,
    inputs: Samples,
    position: Int[Tensor, " row"] | None,
    output_gradient: Float[Tensor, "row *output"],
    *,
    names: Sequence[str] | None = None,
) -> dict[str, Float[Tensor, "row ..."]]:
    """Jᵀ ∂D/∂f row by row with plain autograd: the last resort, and what other engines are tried against."""
    chosen = target.names if names is None else list(names)
    rows = []
    for i in range(n_samples(inputs)):
        leaves = {
            name: target.parameters[name].detach().clone().requires_grad_(True) for name in chosen
        }
        with torch.enable_grad():
            outputs = target.outputs(take(inputs, slice(i, i + 1)), leaves)[0]
            if position is not None:
                outputs = outputs[int(position[i])]
            value = (outputs * output_gradient[i]).sum()
        rows.append(_gradients(value, list(leaves.values())))
    return {name: torch.stack([row[k] for row in rows]) for k, name in enumerate(chosen)}


def gradients_at(
    outputs: Float[Tensor, "row *output"],
    output_gradient: Float[Tensor, "row *output"],
    leaves: Mapping[str, Tensor],
) -> dict[str, Float[Tensor, "row ..."]]:
    """Jᵀ ∂D/∂f row by row through the graph of one forward pass: what engines are tried against."""
    rows = [
        _gradients((one * e).sum(), list(leaves.values()), again=True)
        for one, e in zip(outputs, output_gradient, strict=True)
    ]
    return {name: torch.stack([row[k] for row in rows]) for k, name in enumerate(leaves)}


def _gradients(value: Tensor, leaves: list[Tensor], *, again: bool = False) -> tuple[Tensor, ...]:
    """∂value/∂leaves, zero where it does not depend on them."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    found = torch.autograd.grad(value, leaves, retain_graph=again, materialize_grads=True)
    return tuple(g.to_dense() if g.is_sparse else g for g in found)


@contextmanager
def _outside() -> Generator[None]:
    """No graph through the model's other parameters, plain attention, and errors in plain words."""
    # Fused attention has no batching rule: under vmap it falls back to a loop over rows.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        try:
            yield
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            if "random" in str(error):
                raise ValueError(
                    problem(
                        "model",
                        "outputs that do not depend on chance",
                        "a random operation",
                        "Call model.eval() first, or switch its dropout off.",
                    )
                ) from error
            raise ValueError(
                problem(
                    "engine",
                    "a model that vmap can follow: no branch on values, no .item()",
                    f"{str(error).strip().splitlines()[0][:160]} …",
                    "Use engine='loop'; for text, cut windows without padding (text_windows).",
                )
            ) from error


def _without_shared(inputs: Samples) -> tuple[Samples, dict[str, Tensor]]:
    """Inputs without the masks that all rows share, and these, each with one row."""
    # A mask of ones, as tokenizers give it, so stays a plain tensor, on which models branch.
    if isinstance(inputs, Tensor):
        return inputs, {}
    shared = {
        k: v[:1] for k, v in inputs.items() if k.endswith("mask") and bool((v == v[:1]).all())
    }
    return {k: v for k, v in inputs.items() if k not in shared}, shared


def _as_batch(sample: Samples, shared: dict[str, Tensor]) -> Samples:
    if isinstance(sample, Tensor):
        return sample[None]
    return {k: v[None] for k, v in sample.items()} | shared
