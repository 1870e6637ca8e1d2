"""The matrix A of a target trained on X -> AX, read back from its subnetworks.

Every subnetwork k has a part in W_in and one in W_out. Its feature is the column of the W_in part with the
largest norm; three readings give that feature's column of A up to one factor. Of the three only the
published one keeps its sign when the subnetwork changes its own: for the others take the scaled figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._shapes import Bool, Float, Int


@dataclass(frozen=True)
class Reading:
    """One way to read columns of A, compared entry by entry with the right ones."""

    columns: Float[Tensor, "subnetwork output"]
    """The column each alive subnetwork stands for, as read, without any scaling."""
    pearson: float
    """Pearson r over all entries of all columns, as read."""
    pearson_scaled: float
    """Pearson r after one least-squares factor per subnetwork."""
    r_squared: float
    """1 - Σ(a - â)² / Σ(a - mean)² over all entries, after one least-squares factor per subnetwork."""


@dataclass(frozen=True)
class MixingRecovery:
    """Readings of A and of the map the target itself learned."""

    feature: Int[Tensor, " subnetwork"]
    """The feature of each alive subnetwork."""
    n_features: int
    """Distinct features among them."""
    published: Reading
    """V_out V_in against A: the weights of the subnetwork alone, traced from its feature to all outputs
    (arXiv 2504.00194, sec. 4.1.2; its "r² = 0.92" is a Pearson r)."""
    change: Reading
    """V_out W_in + W_out V_in against W_out W_in: the first-order change of the target's map."""
    read_out: Reading
    """W_out u against W_out W_in, with u the hidden direction that V_out reads: what the target puts out
    when the hidden code is the one this subnetwork listens to."""


def mixing_recovery(
    input_parts: Float[Tensor, "subnetwork hidden feature"],
    output_parts: Float[Tensor, "subnetwork output hidden"],
    W_in: Float[Tensor, "hidden feature"],  # noqa: N803
    W_out: Float[Tensor, "output hidden"],  # noqa: N803
    mixing: Float[Tensor, "output feature"],
    *,
    alive: Bool[Tensor, " subnetwork"] | None = None,
) -> MixingRecovery:
    """Read A, the `mixing`, from the decoder's parts in the W_in and W_out of a target x -> W_out W_in x."""
    if alive is not None:
        input_parts, output_parts = input_parts[alive], output_parts[alive]
    v_in, v_out, w_in, w_out, a = (
        t.detach().double() for t in (input_parts, output_parts, W_in, W_out, mixing)
    )
    feature = v_in.norm(dim=1).argmax(1)
    own = v_in[torch.arange(len(v_in)), :, feature]
    code = w_in[:, feature].mT
    traced = torch.einsum("koh,kh->ko", v_out, own)
    change = torch.einsum("koh,kh->ko", v_out, code) + own @ w_out.mT
    reads = torch.linalg.svd(v_out, full_matrices=False).Vh[:, 0]
    learned = (w_out @ w_in)[:, feature].mT
    return MixingRecovery(
        feature,
        len(feature.unique()),
        compare(traced, a[:, feature].mT),
        compare(change, learned),
        compare(reads @ w_out.mT, learned),
    )


def compare(
    columns: Float[Tensor, "subnetwork output"], right: Float[Tensor, "subnetwork output"]
) -> Reading:
    """Compare columns as read with the right ones."""
    norm = columns.square().sum(1, keepdim=True).clamp(min=torch.finfo(columns.dtype).tiny)
    scaled = columns * (columns * right).sum(1, keepdim=True) / norm
    error = (right - scaled).square().sum()
    total = (right - right.mean()).square().sum()
    return Reading(
        columns, _pearson(columns, right), _pearson(scaled, right), float(1 - error / total)
    )


def _pearson(left: Tensor, right: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1])
