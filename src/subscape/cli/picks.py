"""What `subscape decompose` picks where nothing was said, and how it says so."""

from __future__ import annotations

from collections import Counter

from torch import nn

from subscape.cli.loading import is_code, load_labels
from subscape.references import Pairs
from subscape.training.decompose import Prepared

OF_CLASSES = 0.02
"""Share of the subnetworks that is active in a row of a classifier."""
SAMPLES_EACH = 75
"""Samples a subnetwork wants: with 75 each half came out again from another seed, with 15 next to none
(docs/geometry.md, image classifiers)."""


def is_classifier(model: nn.Module, data: str) -> bool:
    """Whether outputs are logits of classes: the model's class says it, or classes lie beside the data."""
    if type(model).__name__.endswith("Classification"):
        return True
    labels = None if is_code(data) else load_labels(data)
    return labels is not None and labels.dim() == 1 and not labels.is_floating_point()


def l0_of_classes(n_subnetworks: int) -> float:
    """Active subnetworks per row of a classifier: fewer than elsewhere, as then they are more of one class each.

    (docs/geometry.md, image classifiers.)
    """
    return max(1.0, OF_CLASSES * n_subnetworks)


def middle_mlp(model: nn.Module) -> tuple[str, ...] | None:
    """The MLP of the block in the middle of the longest list of blocks; None where there is none.

    That is what holds matrices in the block and is not its attention. Of the parts of a block its subnetworks mean
    most (docs/geometry.md).
    """
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    name, blocks = max(lists, key=lambda item: len(item[1]), default=("", None))
    if blocks is None:
        return None
    middle = len(blocks) // 2
    # A norm may hold nothing but vectors, and may be named after the attention that it stands beside.
    children = [
        f"{name}.{middle}.{child}"
        for child, module in blocks[middle].named_children()
        if "att" not in child.lower() and any(p.dim() > 1 for p in module.parameters())
    ]
    return tuple(children) or None


def picked(prepared: Prepared) -> str:
    """What was chosen, by hand or by default, and the flags that choose otherwise."""
    source, config = prepared.source, prepared.config
    engines = Counter(source.engines.values())
    background = prepared.names.get("background", "")
    rank = config.rank if isinstance(config.rank, int | float) else "by mode or tensor"
    lines = {
        "parameters": (f"{len(source.shapes)} tensors, as listed", "--parameters"),
        "rows": (source.kind, "--rows sample, sampled-token, token"),
        "divergence": (source.divergence.name, "--divergence mse, kl"),
        "reference": _reference(prepared),
        "row weight": (prepared.names["row_weight"], "--row-weight norm, output, unit, 0.5"),
        "metric": (
            f"{prepared.names['metric']}{background and f', of {background}'}",
            "--metric euclidean, kronecker; all: --recipe published",
        ),
        "engine": (", ".join(f"{e} ×{n}" for e, n in engines.items()), "--engine"),
        "rank": (rank, "--rank 2, 0.1, GLOB=RANK"),
        "k": (
            f"{config.n_active:g} of {config.n_subnetworks} subnetworks a row",
            "--l0 or --active-fraction, --n-subnetworks, --group-size",
        ),
        "training": (
            f"{config.steps:,} × {config.batch_size} rows, rate {config.learning_rate:g}, "
            f"from {config.start}",
            "--steps, --batch-size, --learning-rate, --start",
        ),
    }
    shown = [f"  {name:<11} {value!s:<32}  ({flags})" for name, (value, flags) in lines.items()]
    n, n_samples = config.n_subnetworks, len(source)
    if source.kind == "sample" and n_samples < SAMPLES_EACH * n and n > 1:
        shown.append(
            f"  {n_samples:,} samples are few for {n} subnetworks, which may not come out again "
            f"from another seed: --n-subnetworks {max(1, n_samples // SAMPLES_EACH)}"
        )
    measured = source.geometry.metric is not None
    if isinstance(source.reference, Pairs) and measured and not background:
        shown.append(
            "  the metric is that of the pairs' own rows, which divides out what all have in common: "
            "--background FILE takes ordinary data"
        )
    return "\n".join(shown)


def _reference(prepared: Prepared) -> tuple[str, str]:
    """What rows are compared with, and what chooses it."""
    if isinstance(prepared.source.reference, Pairs):
        return "each sample's partner", "--contrast, or pairs in --data"
    return prepared.names["reference"], "--reference another-row, mean, uniform"
