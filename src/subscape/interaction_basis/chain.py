"""A network as a chain of sections between named node layers.

    inputs -embed-> nodes 0 -section 0-> nodes 1 -...-> nodes L -readout-> outputs

A section is any callable from one node layer's activations to the next one's, of shape
[sample, width] or [sample, position, width]; a node layer holds all that crosses its cut. What is
computed from the chain (bases, edges, ablations) is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._checks import out_of_memory, problem, require

Section = Callable[[Tensor], Tensor]

MIXING = 1e-3
"""Largest change of a sample's output, as a share of all outputs, that the batch may make by rounding."""
AGREE = 1e-4
"""Largest difference between the outputs of a chain and of its model, as a share of the largest output."""
WRONG = (RuntimeError, ValueError, TypeError, IndexError)
"""What a section raises on values that it does not take."""


def identity(values: Tensor) -> Tensor:
    """Hand on what came."""
    return values


@dataclass(frozen=True)
class Chain:
    """Sections, one fewer than the node layers they join."""

    names: tuple[str, ...]
    """Of the node layers, from the first to the last."""
    sections: tuple[Section, ...]
    """From every node layer to the next."""
    embed: Section = identity
    """From the inputs as the data has them to the first node layer."""
    readout: Section = identity
    """From the last node layer to the outputs that are scored."""
    isolated: tuple[int, ...] = ()
    """Per node layer, leading coordinates that stay directions of their own (the variance of a norm)."""

    def __post_init__(self) -> None:
        require(len(self.sections) > 0, "sections", "at least one section", "none")
        require(
            len(self.names) == len(self.sections) + 1,
            "names",
            f"one name more than the {len(self.sections)} sections",
            f"{len(self.names)} names",
            "Name the node layer before every section and the one after the last.",
        )
        require(
            len(set(self.names)) == len(self.names),
            "names",
            "every node layer with a name of its own",
            str([n for n in self.names if self.names.count(n) > 1]),
        )
        require(
            len(self.isolated) in (0, len(self.names)),
            "isolated",
            f"one count for each of the {len(self.names)} node layers, or none",
            f"{len(self.isolated)} counts",
        )

    def __len__(self) -> int:
        return len(self.sections)

    def n_isolated(self, layer: int) -> int:
        """Leading coordinates of a node layer that stay as they are."""
        return self.isolated[layer] if self.isolated else 0

    def nodes(self, inputs: Tensor, last: int | None = None) -> list[Tensor]:
        """Activations of every node layer up to number `last`, by default of all."""
        values = [self.embed(inputs)]
        for number, section in enumerate(self.sections[:last]):
            values.append(self._run(number, section, values[-1]))
        return values

    def tail(self, layer: int, values: Tensor) -> Tensor:
        """Outputs of the network from the activations of a node layer."""
        for number in range(layer, len(self)):
            values = self._run(number, self.sections[number], values)
        return self.readout(values)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs of the network."""
        return self.tail(0, self.embed(inputs))

    def part(self, first: int, last: int) -> Section:
        """Node layer `first` to node layer `last` as one section."""
        if last == first + 1:
            return self.sections[first]

        def composed(values: Tensor) -> Tensor:
            for section in self.sections[first:last]:
                values = section(values)
            return values

        return composed

    def _run(self, number: int, section: Section, values: Tensor) -> Tensor:
        try:
            return section(values)
        except WRONG as error:
            if out_of_memory(error):
                raise
            raise ValueError(
                problem(
                    f"sections[{number}]",
                    f"a section that takes the node layer {self.names[number]!r}",
                    f"an error on values of shape {list(values.shape)}: {error}",
                    "The section before it must give as many values as this one takes.",
                )
            ) from error


def batches(inputs: Tensor, batch_size: int) -> Generator[Tensor]:
    """The inputs in pieces of at most `batch_size` samples."""
    require(batch_size >= 1, "batch_size", "a whole number of at least 1", batch_size)
    require(len(inputs) > 0, "inputs", "at least one sample", "none")
    yield from inputs.split(batch_size)


@torch.no_grad()
def check_chain(chain: Chain, inputs: Tensor) -> list[int]:
    """Run two samples that differ and see that the chain is what the method needs; the width of every node layer.

    Raises:
        ValueError: if a section does not fit the next one, mixes samples, changes their number, or gives
            what is no finite floating-point number.
    """
    require(len(inputs) > 0, "inputs", "at least one sample", "none")
    pair = _pair(inputs)
    nodes = chain.nodes(pair)
    for name, values in zip(chain.names, nodes, strict=True):
        require(
            values.dim() in (2, 3) and len(values) == len(pair) and values.is_floating_point(),
            f"node layer {name!r}",
            f"floating-point values [{len(pair)} samples, width] or [sample, position, width]",
            f"{values.dtype} of shape {list(values.shape)}",
        )
        require_finite(name, values)
    _check_alone(chain, nodes)
    return [values.shape[-1] for values in nodes]


@torch.no_grad()
def require_agreement(chain: Chain, wanted: Tensor, inputs: Tensor) -> float:
    """Raise unless the chain gives a model's outputs on these inputs; the difference as a share of the largest."""
    outputs = chain.outputs(inputs)
    same = outputs.shape == wanted.shape
    largest = float(wanted.abs().max())
    off = float((outputs - wanted).abs().max()) / max(largest, 1e-30) if same else torch.inf
    require(
        off <= AGREE,
        "model",
        "sections that give the model's own outputs",
        f"outputs that differ by {off:.2g} of the largest"
        if same
        else f"outputs of shape {list(outputs.shape)} for {list(wanted.shape)}",
        "Its forward does something beside running its modules in order: cut it with "
        "chain_from(model, cuts, inputs), or write its sections and pass Chain(names, sections).",
    )
    return off


def require_finite(name: str, values: Tensor) -> None:
    """Raise if activations hold NaN or infinity."""
    finite = values.isfinite()
    require(
        bool(finite.all()),
        f"node layer {name!r}",
        "finite activations",
        f"{int((~finite).sum())} of {values.numel()} that are NaN or infinite",
        "Check the inputs, or run the model in a wider dtype.",
    )


def _pair(inputs: Tensor) -> Tensor:
    """Two samples that differ, as equal ones would not show that a section mixes them."""
    others = (inputs != inputs[:1]).reshape(len(inputs), -1).any(1).nonzero()
    return inputs[[0, int(others[0])]] if len(others) else inputs[:2]


def _check_alone(chain: Chain, nodes: list[Tensor]) -> None:
    for number, section in enumerate(chain.sections):
        together = nodes[number + 1]
        try:
            alone = torch.cat([section(row) for row in nodes[number].split(1)])
            same_shape = alone.shape == together.shape
            off = float((alone - together).abs().max()) if same_shape else torch.inf
        except WRONG as error:
            if out_of_memory(error):
                raise
            found = f"an error for a sample alone: {error}"
        else:
            if off <= MIXING * float(together.abs().max()):
                continue
            found = f"outputs that change by {off:.2g} with the other samples in the batch"
        raise ValueError(
            problem(
                f"sections[{number}]",
                f"every sample by itself from {chain.names[number]!r} to {chain.names[number + 1]!r}",
                found,
                "Put the model in eval mode: batch normalisation and dropout mix or change samples.",
            )
        )
