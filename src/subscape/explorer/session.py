"""What the explorer asks of the model, by a twin that has the same weights: the model itself is never touched.

Answers are plain dictionaries, ready for JSON; a number that is not finite is None.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from subscape._checks import problem, require
from subscape.data import Samples, hashes, n_samples, take
from subscape.divergences import DIVERGENCES, MSE, Divergence
from subscape.explorer.generation import continuation, difference
from subscape.explorer.inputs import Given, Namer, of_data, of_text
from subscape.gradients import GradientSource
from subscape.lowrank import Stack
from subscape.measures.control import random_like
from subscape.measures.record import Measures, number, rounded
from subscape.measures.response import among_kept, drawn, kept
from subscape.measures.rows import Direction, RowSet, outputs_at
from subscape.references import FixedOutput, uniform
from subscape.report.build import shown_sample
from subscape.rows import RowDraws
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.editing import displacement
from subscape.targets import Target

N_OUTPUTS = 8
"""Outputs to show, the likeliest and those that move most; all of them, if they are few."""
FEW = 16
N_ACTIVE = 12
"""Subnetworks to name of one row."""
MOST_MOVES = 64
MOST_NEW = 200


@dataclass(frozen=True)
class Moves:
    """How far to move along which subnetworks, or along random directions in their stead."""

    deltas: Mapping[int, float] = field(default_factory=dict)
    """δ by subnetwork."""
    random: bool = False
    """Whether random directions of the same norm and rank in every tensor are meant."""

    def __post_init__(self) -> None:
        n = len(self.deltas)
        require(n <= MOST_MOVES, "deltas", f"at most {MOST_MOVES} subnetworks", f"{n}")

    @property
    def key(self) -> tuple[Any, ...]:
        """To remember results by."""
        return tuple(sorted(self.deltas.items())), self.random


@dataclass(frozen=True)
class Input:
    """A text, or the number of a sample of the data."""

    text: str | None = None
    """What somebody typed."""
    sample: int | None = None
    """A place in the data."""


class Session:
    """A measured decomposition with its model and data; not to be used by two threads at once.

    Args:
        decomposition: the subnetworks.
        target: the model they are of.
        measures: their measures.
        data: samples, best not those trained on.
        tokenizer: of a causal language model, for texts.
        token_name: text of an input token.
        output_name: name of an output.
    """

    def __init__(
        self,
        decomposition: Decomposition,
        target: Target,
        measures: Measures,
        data: Samples,
        *,
        tokenizer: Any = None,
        token_name: Namer | None = None,
        output_name: Namer | None = None,
    ) -> None:
        measures.verify(decomposition)
        self.decomposition, self.target = decomposition.beside(target), twin(decomposition, target)
        self.measures, self.data, self.tokenizer = measures, data, tokenizer
        self.token_name = token_name or measures.names.token
        self.output_name = output_name or measures.names.output
        self._directions = {
            False: self.decomposition.directions,
            True: random_like(self.decomposition.directions),
        }
        self._bases: dict[int, Tensor] = {}
        self._check_data()
        # Of the last few texts and moves: a reader goes to and fro between them.
        self._before = lru_cache(16)(self._before_of)
        self._change = lru_cache(4)(self._change_of)
        self._written = lru_cache(32)(self._continued)

    @property
    def takes_text(self) -> bool:
        """Whether it can be given texts."""
        return self.tokenizer is not None

    @property
    def n_samples(self) -> int:
        """Samples of the data."""
        return n_samples(self.data)

    @property
    def by_token(self) -> bool:
        """Whether a row is a token."""
        return self.measures.rows != "sample"

    @property
    def divergence(self) -> Divergence:
        """What changes of outputs are counted in."""
        return DIVERGENCES.get(self.measures.divergence, MSE).of_changes

    def given(self, what: Input) -> Given:
        """The sample that is meant."""
        if what.text is None:
            require(what.sample is not None, "input", "a text or the number of a sample", "neither")
            return of_data(self.data, what.sample or 0)
        require(
            self.takes_text, "text", "a sample of the data", "a text, which this model takes no"
        )
        return of_text(what.text, self.tokenizer)

    def look(self, what: Input) -> dict[str, Any]:
        """The sample itself, and which subnetworks are active in each of its rows, largest first."""
        given = self.given(what)
        codes = self._codes(given)
        strong = codes.abs().topk(min(N_ACTIVE, codes.shape[1])).indices
        active = [
            [(k, rounded(float(row[k]))) for k in order if row[k] != 0]
            for row, order in zip(codes, strong.tolist(), strict=True)
        ]
        found: dict[str, Any] = {"active": active, "sample": given.sample}
        if given.tokens is not None:
            found["tokens"] = [self.token_name(i) for i in given.tokens]
            if self.takes_text:
                found["text"] = self.tokenizer.decode(given.tokens, skip_special_tokens=True)
            return found
        inputs = (
            given.batch if isinstance(given.batch, Tensor) else next(iter(given.batch.values()))
        )
        kept = self.measures.samples
        labels = dict(zip(kept["index"].tolist(), kept.get("labels", ()), strict=False))
        label = labels.get(given.sample)
        return (
            found
            | shown_sample(inputs[0])
            | ({} if label is None else {"label": str(label.item())})
        )

    def push(self, what: Input, moves: Moves, position: int | None = None) -> dict[str, Any]:
        """The outputs at one row before and after: those that matter, and how far they have moved in all."""
        given = self.given(what)
        row = given.row(position, by_token=self.by_token)
        before = self._before(what, position)
        after = outputs_at(self.target, given.batch, row, self._change(moves.key))
        finite = bool(torch.isfinite(after).all())
        change = self._mean_change(after, before) if finite else None
        both = [self._figures(values) for values in (before, after if finite else before)]
        outputs = [
            (self.output_name(i), rounded(float(both[0][i])), rounded(float(both[1][i])))
            for i in _telling(*both)
        ]
        return {"outputs": outputs, "change": change, "finite": finite}

    def meter(self, moves: Moves) -> list[dict[str, Any]]:
        """Mean changes of rows drawn at random and of every moved one's own, beside random directions."""
        ways = [Moves(moves.deltas, random).key for random in (False, True)]
        changes = [self._change(way) for way in ways]
        places: list[tuple[int | None, Samples, RowSet]] = [(None, self.data, self._heldout[0])]
        places += [
            (k, self._kept, self._own_rows(k)) for k in moves.deltas if self.measures[k].top_samples
        ]
        found = []
        for k, samples, rows in places:
            base = self._heldout[1] if k is None else self._own_outputs(k)
            moved = [
                self._mean_change(outputs_at(self.target, samples, rows, change), base)
                for change in changes
            ]
            found.append({
                "subnetwork": k,
                "rows": len(rows),
                "change": moved[0],
                "random": moved[1],
            })
        return found

    def write(self, text: str, moves: Moves, n: int = 40) -> dict[str, Any]:
        """What the model goes on with, without and with the moves, and the difference in words."""
        require(self.takes_text, "text", "a causal language model", "another one")
        require(1 <= n <= MOST_NEW, "n", f"1 to {MOST_NEW} tokens", n)
        ids = self.given(Input(text)).tokens or ()
        before, after = (self._written(ids, n, m.key) for m in (Moves(), moves))
        changed = None if before is None or after is None else difference(before, after)
        return {"before": before, "after": after, "difference": changed}

    def cross(self, first: int, second: int, deltas: Mapping[int, float]) -> list[dict[str, Any]]:
        """How far each one's rows and others move along either and both."""
        for k in (first, second):
            self._check(k)
            require(k in deltas, "deltas", f"δ of {k}", f"only {list(deltas)}")
        pushes = [
            {first: deltas[first]},
            {second: deltas[second]},
            {k: deltas[k] for k in (first, second)},
        ]
        places: list[tuple[int | None, Samples, RowSet]] = [
            *((k, self._kept, self._own_rows(k)) for k in (first, second)),
            (None, self.data, self._heldout[0]),
        ]
        found = []
        for k, samples, rows in places:
            base = self._heldout[1] if k is None else self._own_outputs(k)
            moved = (
                outputs_at(self.target, samples, rows, self._change(Moves(push).key))
                for push in pushes
            )
            found.append({"subnetwork": k, "changes": [self._mean_change(m, base) for m in moved]})
        return found

    def change_of(self, moves: Moves) -> Direction:
        """Σ δ_k v_k by parameter name."""
        return self._change(moves.key)

    # What is worked out once

    @cached_property
    def _heldout(self) -> tuple[RowSet, Tensor]:
        rows = drawn(self.target, self.data, tokens=self.by_token)
        return rows, outputs_at(self.target, self.data, rows)

    @cached_property
    def _kept(self) -> Samples:
        return kept(self.measures)

    @cached_property
    def _reference(self) -> Any:
        """What rows are compared with: as in training, but a mean in place of partners, which one sample lacks."""
        known = self.decomposition.reference
        if known is not None:
            return known
        if self.decomposition.settings.get("reference") == "uniform":
            return uniform
        kind = DIVERGENCES.get(self.measures.divergence, MSE)
        mean = kind.to_average(self._heldout[1].double()).mean(0)
        return FixedOutput(kind.from_average(mean).to(self.target.like))

    @cached_property
    def _source(self) -> GradientSource:
        """Of one sample, to plan engines with."""
        first = take(self.data, torch.arange(1))
        return self.decomposition.source(self.target, first, reference=self._reference)

    def _own_rows(self, index: int) -> RowSet:
        self._check(index)
        return among_kept(self.measures, index)

    def _own_outputs(self, index: int) -> Tensor:
        if index not in self._bases:
            rows = self._own_rows(index)
            self._bases[index] = outputs_at(self.target, self._kept, rows)
        return self._bases[index]

    def _before_of(self, what: Input, position: int | None) -> Tensor:
        given = self.given(what)
        row = given.row(position, by_token=self.by_token)
        return outputs_at(self.target, given.batch, row)

    def _change_of(self, key: tuple[Any, ...]) -> Direction:
        deltas, random = key
        stack: Stack = self._directions[random]
        return displacement(stack, dict(deltas)) if deltas else {}

    def _codes(self, given: Given) -> Tensor:
        source = self._source
        if source.plan is None:
            source = source.over(given.batch, seed=0)
        else:  # planning takes longer than encoding, and a plan holds for texts of any length
            source = copy.copy(source)
            source.data = given.batch
            source.draws = RowDraws(1, source.kind, len(given.tokens or (0,)), 0)
        gradients = source.gradients(source.rows_of(torch.arange(1)))
        with torch.no_grad():
            return self.decomposition.encode_gradients(gradients).cpu()

    def _continued(self, ids: tuple[int, ...], n: int, key: tuple[Any, ...]) -> str | None:
        own = self.target.parameters
        moved = {name: (own[name] + v).to(own[name].dtype) for name, v in self._change(key).items()}
        new = continuation(self.target, ids, moved, n, end=self.tokenizer.eos_token_id)
        return None if new is None else self.tokenizer.decode(new, skip_special_tokens=True)

    def _figures(self, outputs: Tensor) -> Tensor:
        """Of one row, [output]: probabilities where outputs are logits."""
        values = outputs[0].double().cpu()
        return (values.softmax(-1) if self.measures.logits else values).flatten()

    def _mean_change(self, after: Tensor, before: Tensor) -> float | None:
        if not torch.isfinite(after).all():
            return None
        d = self.divergence
        change = number((d(after, before) - d(before, before)).mean().item())
        return None if change is None or not math.isfinite(change) else change

    def _check_data(self) -> None:
        """Top samples are named by their place in the data."""
        mine, index = kept(self.measures), self.measures.samples["index"]
        inside = not len(index) or int(index.max()) < self.n_samples
        same = inside and hashes(take(self.data, index)) == hashes(mine)
        require(same, "data", "the data that were measured", "others", "Measure on these.")

    def _check(self, index: int) -> None:
        n = len(self.measures)
        if not 0 <= index < n:
            raise ValueError(problem("subnetwork", f"one of {n}, 0 to {n - 1}", index))


def twin(decomposition: Decomposition, target: Target) -> Target:
    """The target in modules of its own that share all tensors.

    Parameters are lent to single calls by putting them into the modules for a moment, where others who use the
    model at the same time would meet them.
    """
    model = target.model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return decomposition.target_in(copy.deepcopy(model, shared), outputs=target._outputs)


def _telling(before: Tensor, after: Tensor) -> list[int]:
    """Which outputs to show: the largest before and after, and those that move most; all, if they are few."""
    if len(before) <= FEW:
        return list(range(len(before)))
    moved = (after - before).abs()
    most = [values.topk(N_OUTPUTS // 2).indices.tolist() for values in (before, after, moved)]
    chosen = dict.fromkeys(i for ranked in zip(*most, strict=True) for i in ranked)
    size = torch.maximum(before, after)
    return sorted(list(chosen)[:N_OUTPUTS], key=lambda i: -float(size[i]))
