"""Whether the top rows of a subnetwork have something in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from subscape._shapes import Int
from subscape.gradients import GradientSource
from subscape.measures.impact import Impact, impact
from subscape.rows import generator_of, permutation
from subscape.scorecard.case import Case
from subscape.scorecard.kinds import UNKNOWN, Kinds
from subscape.scorecard.record import Section, columns, left_out, line, section
from subscape.subnetworks.decomposition import Decomposition

N_TOP, ENOUGH = 10, 8
ANY = "any of these"
Groups = Sequence[Tensor]
"""Places of the top rows of every subnetwork."""


def agreement(case: Case, kinds: Kinds) -> Section:
    """Beside random directions, and the top rows dealt out at random; `kinds` are those of `looked_at`."""
    if not kinds:
        why = "nothing is known of the rows: no tokens and no labels"
        return left_out("agreement", why)
    source = case.held.source
    kinds = over_all(kinds, looked_at(source, case.config.n_agree), source)
    tops = {
        name: tops_of(one, source, case)
        for name, one in (("subnetworks", case.decomposition), ("random directions", case.chance))
    }
    tops["the same rows, shuffled"] = shuffled(tops["subnetworks"], case.config.seed)
    lines = tuple(
        line(name, *shares(groups, kinds).values(), ours=name == "subnetworks")
        for name, groups in tops.items()
    )
    n = min(case.config.n_agree, source.n_rows)
    notes = (f"Among {n:,} rows; of rows that have seen the same one counts.",)
    names = [*kinds, *([ANY] if len(kinds) > 1 else [])]
    return section("agreement", columns(names, "high", percent=True), lines, notes)


def tops_of(one: Decomposition, source: GradientSource, case: Case) -> Groups:
    """The top rows of every subnetwork."""
    result = impact(
        one,
        source,
        n_rows=case.config.n_agree,
        n_references=case.n_references,
        n_top=N_TOP,
        progress=False,
    )
    return places_of(result, source)


def places_of(result: Impact, source: GradientSource) -> Groups:
    """Places of top rows among all rows of a source, in the order of its samples."""
    per_sample = source.draws.per_sample
    return [
        top.rows.samples * per_sample + (0 if top.rows.position is None else top.rows.position)
        for top in result.top
    ]


def looked_at(source: GradientSource, n_rows: int) -> Int[Tensor, " sample"]:
    """The samples among which `impact` looks for top rows."""
    n = min(len(source), -(-n_rows // source.draws.per_sample))
    return permutation(len(source), source.seed, 0)[:n]


def over_all(kinds: Kinds, samples: Int[Tensor, " sample"], source: GradientSource) -> Kinds:
    """What is known of the rows of some samples, by place among all rows."""
    at = source.rows_of(samples).index
    nothing = torch.full((len(source) * source.draws.per_sample,), UNKNOWN)
    return {kind: nothing.scatter(0, at, values) for kind, values in kinds.items()}


def shuffled(groups: Groups, seed: int) -> Groups:
    """The same rows dealt out at random, in groups of the same sizes."""
    pool = torch.cat(list(groups))
    pool = pool[torch.randperm(len(pool), generator=generator_of(seed, 30))]
    return pool.split([len(group) for group in groups])


def shares(groups: Groups, kinds: Kinds) -> Mapping[str, float]:
    """Share of the groups in which enough rows have the same value, by kind and of any kind."""
    sizes = [[largest(values[group].tolist()) for values in kinds.values()] for group in groups]
    enough = torch.tensor(sizes).view(len(groups), len(kinds)) >= ENOUGH
    by_kind = enough.double().mean(0).tolist()
    found = dict(zip(kinds, by_kind, strict=True))
    return found | ({ANY: float(enough.any(1).double().mean())} if len(kinds) > 1 else {})


def largest(values: Sequence[int]) -> int:
    """Size of the largest group of equal ones; unknown ones are equal to none."""
    counts = Counter(v for v in values if v != UNKNOWN)
    return max(counts.values(), default=min(1, len(values)))
