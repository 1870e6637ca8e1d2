"""A trained decomposition: a sequence of subnetworks that encodes, decodes, saves and loads.

A saved decomposition is a folder: `config.json` (format version, settings, the target it belongs to)
and `subnetworks.safetensors` with the pieces of every tensor, `decoder.<parameter>.core`,
`decoder.<parameter>.factors.0` and so on, and the same under `encoder.`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subscape._checks import problem, require
from subscape._html import table
from subscape._shapes import Float
from subscape.divergences import Divergence, Values
from subscape.gradients.geometry import Geometry
from subscape.gradients.row_gradients import DenseRowGradients, RowGradients
from subscape.gradients.source import Engine, GradientSource
from subscape.lowrank import Layout, Stack
from subscape.lowrank.products import blocks_of_products
from subscape.lowrank.stack import unit
from subscape.references import MEAN, FixedOutput, Pairs, Reference
from subscape.rows import RowKind
from subscape.subnetworks.consolidation import consolidate
from subscape.subnetworks.dictionary import Dictionary
from subscape.subnetworks.editing import Deltas, Edit, displacement, edited_copy
from subscape.subnetworks.evaluation import Evaluation, evaluate
from subscape.subnetworks.formats import local_folder
from subscape.subnetworks.hub import card, push
from subscape.subnetworks.lora import save_lora
from subscape.subnetworks.neighbours import Neighbours
from subscape.subnetworks.saving import load, save
from subscape.subnetworks.subnetwork import Subnetwork
from subscape.targets import Outputs, Target, check_same


@dataclass(frozen=True)
class Decomposition:
    """The subnetworks of a target: encoder V_in, decoder V_out, and how rows are encoded."""

    dictionary: Dictionary
    """Encoder, decoder and selection, without replicas."""
    target: Mapping[str, Any]
    """Fingerprint of the target it belongs to."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was made."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """What it reached on rows not trained on."""
    reference: FixedOutput | None = None
    """The output that all rows were compared with, where it was one."""
    geometry: Geometry = field(default_factory=Geometry)
    """How rows are weighted, and the metric in which encoder and decoder live."""

    @property
    def encoder(self) -> Stack:
        """V_in, [subnetwork]."""
        return self.dictionary.encoder

    @property
    def decoder(self) -> Stack:
        """V_out, [subnetwork], in the metric; every direction has unit L2 norm over all tensors together."""
        return self.dictionary.decoder

    @cached_property
    def directions(self) -> Stack:
        """The directions to push, [subnetwork], in the parameters' own coordinates and of unit L2 norm.

        Without a metric the decoder's; in one F^(−p) V_out, which moves the rows whose codes are large
        (see `lowrank.metric`).
        """
        metric = self.geometry.metric
        return self.decoder if metric is None else unit(metric.to_push(self.decoder))

    @property
    def threshold(self) -> Float[Tensor, "*subnetwork"]:
        """From which size on a coefficient is active when rows are encoded one by one: one for all, or each."""
        return self.dictionary.selection.threshold

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Decomposition:
        """The same on another device, or in another floating-point type."""
        moved = copy.deepcopy(self.dictionary).to(device=device, dtype=dtype)
        return replace(self, dictionary=moved, geometry=self.geometry.to(moved.decoder_weights))

    def beside(self, model: nn.Module | Target) -> Decomposition:
        """Itself on the model's device."""
        device = next((model.model if isinstance(model, Target) else model).parameters()).device
        return self if device == self.decoder.weights.device else self.to(device)

    @property
    def group_size(self) -> int:
        """Directions of a subnetwork; with more than one, all that goes by index goes by direction."""
        return self.dictionary.selection.group_size

    def __len__(self) -> int:
        return self.decoder.weights.shape[0]

    def __getitem__(self, index: int) -> Subnetwork:
        require(
            isinstance(index, int),
            "index",
            "a whole number",
            repr(index),
            "Parts in single tensors: decomposition[0]['layer.weight'].",
            error=TypeError,
        )
        if not -len(self) <= index < len(self):
            raise IndexError(
                problem("index", f"a subnetwork from 0 to {len(self) - 1}", repr(index), "")
            )
        return Subnetwork(index % len(self), self.directions.select(index))

    def __iter__(self) -> Iterator[Subnetwork]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        n_tensors = len(self.decoder.layout.tensors)
        return f"Decomposition({len(self)} subnetworks over {n_tensors} tensors of {self.target['model']})"

    def _repr_html_(self) -> str:
        shares = self.directions.norms().square().mean(0).tolist()
        rows = [
            (t.name, " × ".join(map(str, t.shape)), ", ".join(map(str, t.ranks)), f"{share:.1%}")
            for t, share in zip(self.layout.tensors, shares, strict=True)
        ]
        figures = [
            f"{k} {v:.3g}" for k in ("fvu", "l0", "dead") if (v := self.metrics.get(k)) is not None
        ]
        caption = "\n".join([repr(self), *([", ".join(figures)] if figures else [])])
        return table(caption, ("tensor", "shape", "ranks", "mean share of norm"), rows)

    @property
    def layout(self) -> Layout:
        """Names, shapes and ranks of the tensors."""
        return self.decoder.layout

    def source(
        self,
        model: nn.Module | Target,
        data: Any,
        *,
        divergence: str | Divergence | Values | None = None,
        reference: str | Reference | None = None,
        rows: RowKind | None = None,
        outputs: Outputs | None = None,
        engine: Engine = "auto",
        seed: int = 0,
        as_trained: bool = False,
    ) -> GradientSource:
        """Row gradients of data, made as this decomposition was made; of sequences at every position.

        Args:
            model: the model, or the target, that this decomposition was made for.
            data: inputs; see `subscape.data.as_samples`.
            divergence: another one than the decomposition's.
            reference: another one.
            rows: another kind.
            outputs: as for `Target`; to be given again where the decomposition was made with a function.
            engine: how row gradients are made.
            seed: draws partners.
            as_trained: of sequences one position each, drawn anew every time, where training drew them.

        Raises:
            ValueError: if model, outputs or a function given at training do not go with the decomposition.
        """
        if isinstance(model, Target):
            target = model
            self.verify(target)
        else:
            target = self.target_in(model, outputs=outputs)
        expected = self.settings.get("outputs", target.outputs_name)
        require(
            expected == target.outputs_name,
            "outputs",
            f"the outputs function that the decomposition was made with, {expected!r}",
            f"{target.outputs_name!r}",
            "Give the same one: Target(model, parameters, outputs=...).",
        )
        kind: RowKind = rows or self.settings.get("rows", "sample")
        return GradientSource(
            target,
            data,
            divergence=divergence or self.settings.get("divergence", "mse"),
            reference=reference or self.reference or self._named_reference,
            rows="token" if kind == "sampled-token" and not as_trained else kind,
            engine=engine,
            seed=seed,
            geometry=self.geometry,
        )

    @property
    def _named_reference(self) -> str:
        """The rule of the rows at training; pairs belong to their samples: others have the mean of their data."""
        name = str(self.settings.get("reference", "another-row"))
        return MEAN if name.startswith(Pairs.__name__) else name

    def encode(
        self, model: nn.Module | Target, inputs: Any, *, batch_size: int = 256, **options: Any
    ) -> Float[Tensor, "row subnetwork"]:
        """Codes of inputs: the coefficients of every row, zero where they do not reach the threshold.

        Rows do not influence each other here, unlike in training, where batch top-k selects. All is computed
        on the model's device.

        Args:
            model: the model, or the target, that this decomposition was made for.
            inputs: a row each, or of sequences a row per position but padding, one sequence after the other.
            batch_size: rows made at once.
            **options: as for `source`.

        Returns:
            Sparse codes as a dense matrix, in divergence per unit length of V_out.
        """
        here = self.beside(model)
        source = here.source(model, inputs, **options)
        parts = source.rows_of(torch.arange(len(source))).micro_batches(batch_size)
        with torch.no_grad():
            return torch.cat([here.encode_gradients(source.gradients(part)) for part in parts])

    def evaluate(
        self,
        model: nn.Module | Target,
        data: Any,
        *,
        n_rows: int = 1024,
        batch_size: int = 256,
        alone: bool = False,
        **options: Any,
    ) -> Evaluation:
        """FVU, L0 and active rates on data, best not those trained on.

        Args:
            model: the model, or the target, that this decomposition was made for.
            data: inputs.
            n_rows: rows to look at.
            batch_size: rows over which batch top-k selects.
            alone: select row by row, by the threshold, instead.
            **options: as for `source`.
        """
        here = self.beside(model)
        source = here.source(model, data, **options)
        return evaluate(source, here.dictionary, n_rows=n_rows, batch_size=batch_size, alone=alone)

    def consolidated(
        self,
        model: nn.Module | Target,
        inputs: Any,
        *,
        n_rows: int = 2048,
        batch_size: int = 256,
        **options: Any,
    ) -> Decomposition:
        """The same with subnetworks merged that are parts of one, and without those of little worth.

        Which, and why, is in `metrics["consolidation"]`; the other figures are to be measured anew. Nothing is
        trained: `subscape.training.refit.refit` does that.

        Args:
            model: the model, or the target, that this decomposition was made for.
            inputs: inputs, best those that were trained on.
            n_rows: rows to judge by.
            batch_size: rows made at once.
            **options: as for `source`.

        Returns:
            The smaller decomposition.

        Raises:
            ValueError: if subnetworks are groups of directions.
        """
        require(
            self.group_size == 1,
            "decomposition",
            "subnetworks of one direction each, as groups are not merged",
            f"group_size={self.group_size}",
        )
        here = self.beside(model)
        source = here.source(model, inputs, **options)
        rows = source.rows_of(torch.arange(len(source))).micro_batches(batch_size)
        gradients = [source.gradients(part) for part in rows[: -(-n_rows // batch_size)]]
        with torch.no_grad():
            inner = torch.cat([g.inner(here.decoder) for g in gradients])
            found = consolidate(inner, here.decoder.gram(), self._l0_of)
            encoder = found.applied_to(here.encoder)
            decoder = found.applied_to(here.decoder, normalise=True)
            smaller = here.dictionary.selection.of(found.kept, found.l0)
            smaller.calibrate(torch.cat([g.inner(encoder) for g in gradients]))
        return replace(
            here,
            dictionary=Dictionary(encoder, decoder, smaller).requires_grad_(False),
            metrics={"consolidation": found.record()},
        )

    def _l0_of(self, n_subnetworks: int) -> float:
        """Active ones per row where there are so many: a share of them, unless a number was asked for."""
        l0 = self.dictionary.selection.l0
        if self.settings.get("l0") is not None:
            return min(l0, n_subnetworks)
        return l0 / len(self) * n_subnetworks

    def encode_gradients(self, gradients: RowGradients) -> Float[Tensor, "row subnetwork"]:
        """Codes of row gradients of the target; see `encode`."""
        coefficients = self.coefficients(gradients)
        return coefficients * self.dictionary.selection.alone(coefficients)

    def coefficients(self, gradients: RowGradients) -> Float[Tensor, "row subnetwork"]:
        """⟨g_i, V_in⟩ of every row, active or not, in divergence per unit length of V_out."""
        if isinstance(gradients, DenseRowGradients):
            require(
                gradients.flat.shape[-1] == self.layout.n_parameters,
                "gradients",
                f"rows of {self.layout.n_parameters} parameters",
                f"{gradients.flat.shape[-1]}",
                "Make them for the target this decomposition was made for; see verify.",
            )
        return gradients.inner(self.encoder)

    def decode(
        self, coefficients: Float[Tensor, "row subnetwork"]
    ) -> dict[str, Float[Tensor, "..."]]:
        """ĝ = s V_out by parameter name, each `[row, *shape]`."""
        require(
            coefficients.shape[-1] == len(self),
            "coefficients",
            f"one column for each of the {len(self)} subnetworks",
            f"shape {list(coefficients.shape)}",
            "Use what encode returned.",
        )
        return {
            name: torch.einsum("rk,k...->r...", coefficients, direction)
            for name, direction in self.decoder.dense().items()
        }

    def norms(self) -> dict[str, Float[Tensor, " subnetwork"]]:
        """L2 norm of every subnetwork in every tensor, by parameter name."""
        return dict(zip(self.layout.names, self.directions.norms().unbind(-1), strict=True))

    def similarity(self) -> Float[Tensor, "subnetwork subnetwork"]:
        """Cosines between the subnetworks; of thousands rather ask for `neighbours`."""
        return self.decoder.gram()

    def neighbours(self, n: int | None = None) -> Neighbours:
        """The most similar others of every subnetwork, by cosine; in memory that grows with their number.

        Args:
            n: how many of each; by default all, of more than 2,000 subnetworks 20.
        """
        return Neighbours.of(blocks_of_products(self.decoder, self.decoder), n)

    def show(self, subnetwork: int | None = None, measures: Any = None, **options: Any) -> Any:
        """Show a subnetwork's card, or the list of all, in a notebook; see `subscape.show`.

        Args:
            subnetwork: whose card to open.
            measures: what `subscape.measure` gave, or the folder it was saved to.
            **options: as for `subscape.show`; with `model=` a card has sliders.
        """
        # By name, as pages lie above what they show.
        notebook = import_module("subscape.notebook")
        return notebook.show(self, measures, subnetwork, **options)

    def edit(self, model: nn.Module, deltas: Deltas, *, tensors: str | Sequence[str] = "*") -> Edit:
        """Move a model along subnetworks, W0 + Σ δ_k v_k, and back.

        Example::

            with decomposition.edit(model, {3: +0.5, 17: -1.0}):
                model(inputs)

        The parameters change in place inside the block and are the old ones afterwards, bit by bit, also
        after an exception. Without `with`: `.apply()` and `.undo()`.

        Args:
            model: the model this decomposition was made for.
            deltas: δ_k by index; a subnetwork has length 1.
            tensors: patterns over the target's tensors; the others are not moved.

        Returns:
            The edit, not yet applied.

        Raises:
            ValueError: if the model is another one, a δ is not finite, or a pattern matches nothing.
            IndexError: if there is no such subnetwork.
        """
        return Edit(self.target_in(model).model, displacement(self.directions, deltas, tensors))

    def edited(
        self, model: nn.Module, deltas: Deltas, *, tensors: str | Sequence[str] = "*"
    ) -> nn.Module:
        """A copy of the model moved along subnetworks, with the arguments of `edit`.

        For a Hugging Face model `decomposition.edited(model, {3: 0.5}).save_pretrained(folder)` writes the
        merged weights.
        """
        module = self.target_in(model).model
        return edited_copy(module, displacement(self.directions, deltas, tensors))

    def save_lora(
        self,
        folder: str | Path,
        model: nn.Module,
        deltas: Deltas,
        *,
        tensors: str | Sequence[str] = "*",
        overwrite: bool = True,
    ) -> Path:
        """Write an edit as a LoRA adapter, which `peft.PeftModel.from_pretrained(model, folder)` loads.

        Args:
            folder: where to.
            model: the model this decomposition was made for.
            deltas: δ_k by index.
            tensors: patterns over the target's tensors: linear layers' weights only.
            overwrite: replace an adapter that this method wrote; anything else is never replaced.

        Raises:
            ValueError: if a chosen tensor is not the weight of a linear layer.
        """
        module = self.target_in(model).model
        change = displacement(self.directions, deltas, tensors)
        return save_lora(folder, module, change, overwrite=overwrite)

    def target_in(self, model: nn.Module, *, outputs: Outputs | None = None) -> Target:
        """The target that this decomposition is of, in a model at hand; others are refused, as by `verify`."""
        every = dict(model.named_parameters(remove_duplicate=False))
        mine = {id(every[name]) for name in self.layout.names if name in every}
        # A tied parameter has its first name here; a target wants all of them.
        tied = [name for name, parameter in every.items() if id(parameter) in mine]
        target = Target(model, [*self.layout.names, *tied], outputs=outputs)
        self.verify(target)
        return target

    def verify(self, target: Target) -> None:
        """Refuse a target that this decomposition does not belong to.

        Raises:
            ValueError: if names, shapes, dtypes or values of its parameters differ; says which.
        """
        check_same(self.target, target.fingerprint())

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = True) -> Path:
        """Write the decomposition to a new or empty folder, or over a decomposition: all of it or nothing.

        Anything else that is there is never replaced.
        """
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return save(folder, **parts, overwrite=overwrite)

    def push_to_hub(
        self,
        repository: str,
        *,
        base_model: str | None = None,
        report: str | Path | None = None,
        private: bool = True,
    ) -> str:
        """Upload the decomposition to the Hugging Face Hub, with a card of its figures and settings.

        Args:
            repository: `user/repository`, made if it is not there.
            base_model: id of the model on the Hub, which the card then links to.
            report: a page of `write_report` to put beside it. It shows pieces of the data it was measured on.
            private: of a new repository, whether only you see it.

        Returns:
            Address of the repository.

        Raises:
            ValueError: if it may not be written to.
        """
        text = card(
            repository,
            len(self),
            self.layout,
            model=self.target["model"],
            settings=self.settings,
            metrics=self.metrics,
            base_model=base_model,
            with_report=report is not None,
        )
        page = None if report is None else Path(report)
        return push(repository, self.save_pretrained, text, report=page, private=private)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: Any = None) -> Decomposition:
        """Load what `save_pretrained` wrote, onto the CPU or another device.

        Args:
            folder: its path, or `user/repository` on the Hugging Face Hub.
            device: where to.

        Raises:
            FileNotFoundError: if it is neither here nor to be had.
            ValueError: if the folder holds something else, is incomplete, or is of a newer format.
        """
        loaded = cls(**load(local_folder(folder)))
        return loaded if device is None else loaded.to(device)
