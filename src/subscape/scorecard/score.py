"""One call from a decomposition, its model and data to a scorecard, kept in a folder and resumed from there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import subscape._version as version
from subscape._checks import require, with_settings
from subscape._hash import sha256_of
from subscape._io import check_free
from subscape._lock import locked
from subscape._progress import bar
from subscape._shapes import Int
from subscape.data import as_samples
from subscape.gradients import GradientSource
from subscape.measures.kept import check_vocabulary
from subscape.measures.record import Measures, identity_of
from subscape.rows import permutation
from subscape.scorecard.adversary import adversary
from subscape.scorecard.agreement import agreement, looked_at
from subscape.scorecard.case import Case, Part
from subscape.scorecard.config import SECTIONS, ScoreConfig
from subscape.scorecard.features import Every, features_of
from subscape.scorecard.kinds import Kinds, kinds_of
from subscape.scorecard.loudness import loudness
from subscape.scorecard.probes import probes
from subscape.scorecard.reconstruction import reconstruction
from subscape.scorecard.record import FORMAT, NAME, Scorecard, Section, is_scorecard, left_out
from subscape.scorecard.selectivity import Pushed, selectivity
from subscape.scorecard.separation import separation
from subscape.scorecard.stability import stability
from subscape.scorecard.twin import twin
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Outputs, Target

FREE = ("minutes", "leave_out")
"""Settings that no figure depends on."""


def score(
    decomposition: Decomposition,
    model: nn.Module | Target,
    data: Any,
    *,
    fit: Any = None,
    against: Mapping[str, Decomposition] | None = None,
    labels: Tensor | None = None,
    fit_labels: Tensor | None = None,
    token_names: Callable[[int], str] | None = None,
    measures: Measures | None = None,
    outputs: Outputs | None = None,
    config: ScoreConfig | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Scorecard:
    """Every figure of a decomposition beside its controls.

    Args:
        decomposition: the subnetworks.
        model: the model they are of, or its `Target`.
        data: samples to score, best not those trained on.
        fit: other samples, which principal directions, k-means, probes and the autoencoder are fitted on, best
            those trained on; by default a part of `data`, which is then not scored.
        against: decompositions of other seeds, by name.
        labels: a class for every sample of `data`, or for every position of it.
        fit_labels: the same of `fit`.
        token_names: text of a token, for the class of its word.
        measures: what `measure` found, to say beside it.
        outputs: as for `Target`; to be given again where the decomposition was made with a function.
        config: how much is looked at.
        out: folder to keep the scorecard in; one that was interrupted goes on from there.
        overwrite: start over where there is another scorecard.
        progress: show a progress bar.
        **settings: single settings, on top of `config`: see `ScoreConfig`.

    Raises:
        ValueError: if model, data or labels do not go with the decomposition, or the folder is of other data or
            settings.
    """
    config = with_settings(config or ScoreConfig(), settings)
    decomposition = decomposition.beside(model)
    source = decomposition.source(model, data, outputs=outputs, seed=config.seed)
    check_vocabulary(source.target, source.data)
    for other in (against or {}).values():
        other.verify(source.target)
    where = None if out is None else Path(out)
    with locked(where):
        case = _case(decomposition, source, fit, labels, fit_labels, token_names, config)
        card = Scorecard(
            format=FORMAT,
            subscape_version=version.__version__,
            decomposition=identity_of(decomposition),
            inputs=_identity(case),
            against={name: identity_of(other) for name, other in (against or {}).items()},
            settings=config,
            n_subnetworks=len(decomposition),
            rows=source.kind,
            divergence=source.divergence.name,
            unit=source.divergence.of_changes.unit,
            n_rows=len(case.held),
            n_fit=len(case.fit),
        )
        if where is not None:
            card = _resumed(card, where, overwrite)
        kinds = kinds_of(source, looked_at(source, config.n_agree), labels, token_names)
        folder = None if where is None else where / f"twin-{card.inputs[:8]}"
        made = Sections(case, kinds, measures, dict(against or {}), folder)
        done = {section.key: section for section in card.sections}
        rest = [key for key in SECTIONS if key not in done]
        for key in bar("scorecard", rest, progress=progress):
            done[key] = _made(made, key, card)
            card = replace(card, sections=tuple(done[k] for k in SECTIONS if k in done))
            if where is not None:
                card.save(where)
    return card


@dataclass(frozen=True)
class Sections:
    """Makes the sections; what several need is made once."""

    case: Case
    """What is looked at."""
    kinds: Kinds
    """Of the rows among which top rows are looked for."""
    measures: Measures | None
    """What was measured before."""
    against: Mapping[str, Decomposition]
    """Other runs."""
    folder: Path | None
    """Where the training of a twin may be gone on with."""

    @cached_property
    def every(self) -> Every:
        """Codes and what stands beside them."""
        return features_of(self.case)

    @cached_property
    def pushed(self) -> Pushed:
        """Selectivity, with the δ that adversarial combinations go by."""
        return selectivity(self.case, self.measures)

    def make(self, key: str, seconds_left: float) -> Section:
        """One section."""
        case = self.case
        makers: Mapping[str, Callable[[], Section]] = {
            "reconstruction": lambda: reconstruction(case),
            "loudness": lambda: loudness(case),
            "agreement": lambda: agreement(case, self.kinds),
            "selectivity": lambda: self.pushed.section,
            "separation": lambda: separation(case, self.every),
            "probes": lambda: probes(case, self.every),
            "stability": lambda: stability(case, self.against),
            "adversary": lambda: adversary(case, self.pushed.delta),
            "twin": lambda: twin(case, self.kinds, seconds_left, self.folder),
        }
        return makers[key]()


def _made(made: Sections, key: str, card: Scorecard) -> Section:
    """A section with the time it took; left out where it was asked to be, cannot be made or has no time left."""
    config, left = card.settings, 60 * card.settings.minutes - card.seconds
    if key in config.leave_out:
        return left_out(key, "as asked")
    if left <= 0:
        return left_out(key, f"the {config.minutes:g} minutes were used up (--minutes)")
    start = time.process_time()
    try:
        section = made.make(key, left)
    except ImportError as error:
        section = left_out(key, str(error))
    return replace(section, seconds=round(time.process_time() - start, 2))


def _case(
    decomposition: Decomposition,
    source: GradientSource,
    fit: Any,
    labels: Tensor | None,
    fit_labels: Tensor | None,
    token_names: Callable[[int], str] | None,
    config: ScoreConfig,
) -> Case:
    """Rows to score, and rows to fit on."""
    per_sample = source.draws.per_sample

    def part(of: GradientSource, samples: Int[Tensor, " sample"], known: Tensor | None) -> Part:
        return Part(of, samples, kinds_of(of, samples, known, token_names))

    def first(of: GradientSource, n_rows: int) -> Int[Tensor, " sample"]:
        return permutation(len(of), of.seed, 0)[: max(2, n_rows // per_sample)]

    if fit is not None:
        other = source.over(as_samples(fit), seed=config.seed + 1)
        held = part(source, first(source, config.n_rows), labels)
        return Case(
            decomposition, held, part(other, first(other, config.n_fit), fit_labels), config
        )
    n = len(source)
    require(n >= 4, "data", "at least 4 samples, some to score and some to fit controls on", f"{n}")
    order, share = permutation(n, source.seed, 0), config.n_rows / (config.n_rows + config.n_fit)
    n_held = min(max(2, config.n_rows // per_sample), max(2, int(share * n)))
    held, rest = order[:n_held], order[n_held:][: max(2, config.n_fit // per_sample)]
    return Case(decomposition, part(source, held, labels), part(source, rest, labels), config)


def _identity(case: Case) -> str:
    """Of all that figures depend on, but for other runs."""
    parts = (case.held, case.fit)
    known = {f"{i}.{kind}": v for i, part in enumerate(parts) for kind, v in part.kinds.items()}
    said = {
        "settings": {k: v for k, v in asdict(case.config).items() if k not in FREE},
        "parts": [part.source.identity for part in parts],
        "kinds": sha256_of(known),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _resumed(card: Scorecard, folder: Path, overwrite: bool) -> Scorecard:
    """The scorecard of the same inputs in the folder; another one is refused, or begun anew."""
    check_free(folder / NAME, overwrite=True, owned=is_scorecard, name="out")
    if overwrite or not (folder / NAME).exists():
        return card
    before = Scorecard.load(folder)
    same = before.inputs == card.inputs and before.decomposition == card.decomposition
    require(
        same,
        "out",
        "a new folder, or that of the same scorecard to go on with",
        f"{folder / NAME} of other data, settings or runs",
        "Choose another folder, or evaluate anew: overwrite=True (--overwrite).",
    )
    # What was left out, for lack of time or as asked, may be made now.
    made = [s for s in before.sections if s.left_out is None]
    if before.against != card.against:
        made = [s for s in made if s.key != "stability"]
    return replace(card, sections=tuple(made))
