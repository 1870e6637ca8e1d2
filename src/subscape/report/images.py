"""Thumbnails: samples that are images, as data URIs."""

from __future__ import annotations

import base64
import io

import torch
from torch import Tensor

from subscape._checks import optional

SIDE = 64
"""Longest side of a thumbnail; 2,000 of them must stay below 10 MB."""
LOSSLESS_SIDE = 32
"""Up to this side pixels are kept as they are."""


def is_images(samples: Tensor) -> bool:
    """Whether samples are images: [sample, height, width] or with 1 or 3 channels before these."""
    shape = tuple(samples.shape[1:])
    return (len(shape) == 2 and min(shape) > 1) or (len(shape) == 3 and shape[0] in (1, 3))


def data_uri(image: Tensor) -> str:
    """One image [height, width] or [channel, height, width] as a PNG or JPEG data URI.

    Numbers that are not bytes are stretched from the image's own smallest to its largest value.
    """
    pillow = optional("PIL.Image", "for thumbnails", "'subscape[plot]'")
    values = image.detach().cpu()
    if values.dtype != torch.uint8:
        values = values.double()
        low, high = values.min(), values.max()
        values = ((values - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
    if values.dim() == 3:
        values = values[0] if values.shape[0] == 1 else values.permute(1, 2, 0)
    picture = pillow.fromarray(values.contiguous().numpy())
    small = max(picture.size) <= LOSSLESS_SIDE
    if not small:
        picture.thumbnail((SIDE, SIDE))
    file, kind = io.BytesIO(), "PNG" if small else "JPEG"
    picture.save(file, kind, **({"optimize": True} if small else {"quality": 85}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
