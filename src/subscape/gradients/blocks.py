"""Blocks of tensors that are decomposed each on its own, from one forward and one backward pass of the model.

A block's source is a source like any other, and gives the rows that it would give alone; but the passes of the
model behind it serve all blocks. So ask all blocks for the same rows, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from subscape._checks import nearest, require
from subscape.gradients.geometry import Geometry
from subscape.gradients.row_gradients import RowGradients, of_tensors
from subscape.gradients.source import GradientSource
from subscape.rows import Rows
from subscape.targets import Target


def modules_matched(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the modules with parameters that globs match, in model order.

    Of modules inside each other it is the outermost; `!glob` takes modules away with all that is in them.
    """
    every = [n for n, m in model.named_modules() if n and next(m.parameters(), None) is not None]
    wanted: set[str] = set()
    for pattern in sorted(patterns, key=lambda p: p.startswith("!")):
        matched = {name for name in every if fnmatchcase(name, pattern.removeprefix("!"))}
        require(
            bool(matched),
            "blocks",
            f"globs over the {len(every)} modules that have parameters",
            f"{pattern!r}, which matches none",
            nearest(pattern.removeprefix("!"), every) or "subscape inspect lists them.",
        )
        if pattern.startswith("!"):
            wanted -= matched | _inside(wanted, matched)
        else:
            wanted |= matched
    chosen = [name for name in every if name in wanted - _inside(wanted, wanted)]
    require(bool(chosen), "blocks", "globs that leave a module", f"{list(patterns)}")
    return chosen


def _inside(names: set[str], others: set[str]) -> set[str]:
    """The modules that are in others."""
    return {name for name in names if any(name.startswith(f"{other}.") for other in others)}


class SharedPasses:
    """Row gradients over the tensors of all blocks, kept until other rows are asked for."""

    def __init__(self, source: GradientSource) -> None:
        self.source = source
        self._kept: tuple[Rows, RowGradients] | None = None

    def of(self, rows: Rows) -> RowGradients:
        """Row gradients of rows."""
        if self._kept is None or not self._kept[0].same(rows):
            self._kept = None  # before there are others
            self._kept = (rows, next(self.source.gradients_over([rows])))
        return self._kept[1]


class BlockSource(GradientSource):
    """Row gradients of one block, which are its share of those of all blocks.

    Args:
        passes: of the model, for all blocks.
        target: the block.
        geometry: its own.
    """

    def __init__(self, passes: SharedPasses, target: Target, geometry: Geometry) -> None:
        vars(self).update(vars(passes.source))  # data, rows, reference: all but what follows
        self.passes, self.target, self.geometry = passes, target, geometry
        self.plan = None if self.plan is None else self.plan.of(target)

    def gradients_over(self, draws: Sequence[Rows]) -> Iterator[RowGradients]:
        """See `GradientSource`."""
        many = len(draws) > 1
        shared = self.passes.source.gradients_over(draws) if many else map(self.passes.of, draws)
        for gradients in shared:
            yield self.geometry.of_rows(of_tensors(gradients, self.target.names))


def block_sources(
    source: GradientSource, targets: Mapping[str, Target], geometries: Sequence[Geometry]
) -> dict[str, BlockSource]:
    """A source for every block of one over all of them."""
    passes = SharedPasses(source)
    pairs = zip(targets.items(), geometries, strict=True)
    return {name: BlockSource(passes, target, own) for (name, target), own in pairs}
