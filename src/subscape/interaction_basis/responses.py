"""What directions respond to: the samples at which each is farthest from its mean, to be shown.

Samples are shown as what they are: images as thumbnails, token ids as text around the place, pairs of numbers
as a map over both; of others only the number is given.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from subscape._shapes import Float, Int
from subscape.interaction_basis.chain import Chain
from subscape.interaction_basis.graph import InteractionGraph

N_TOP = 5
"""Samples shown for a direction."""
MOST = 60
"""Directions per node layer, the most important first."""
MOST_MAPS = 12
"""Maps per node layer, which are large."""
AROUND = 8
"""Tokens shown before a place, and half as many behind it."""
LARGEST = 4096
"""Places in an image up to which it is shown."""
FILLED = 0.2
"""Share of pairs that must be there for a map."""


@torch.no_grad()
def responses(
    chain: Chain,
    graph: InteractionGraph,
    inputs: Tensor,
    *,
    words: Callable[[Tensor], list[str]] | None = None,
    batch_size: int = 256,
) -> dict[str, Any]:
    """For every node layer and direction its top samples as [sample, place, value], and how samples look.

    Gives {"layers": [[top samples, by direction]], "samples": {number: {"image"} or {"tokens"}}, "maps":
    {"layer.direction": image}}.
    """
    pairs = _pairs(inputs)
    layers, maps, used = [], {}, set()
    for number, basis in enumerate(graph.bases):
        pieces = [
            basis.encode(chain.nodes(some, number)[-1])[..., :MOST]
            for some in inputs.split(batch_size)
        ]
        values = torch.cat(pieces).float()
        if values.dim() == 2:
            values = values[:, None]
        top = [_top(values[..., k]) for k in range(values.shape[-1])]
        used.update(sample for rows in top for sample, _, _ in rows)
        layers.append(top)
        if pairs is not None:
            for direction in range(min(MOST_MAPS, values.shape[-1])):
                image = pair_map(pairs, values[..., direction].sum(1))
                maps[f"{number}.{direction}"] = png(image)
    samples = {str(n): look for n in sorted(used) if (look := _look(inputs[n], words))}
    return {"layers": layers, "samples": samples, "maps": maps}


def _top(values: Float[Tensor, "sample position"]) -> list[list[Any]]:
    """The samples farthest from the mean, each at its farthest place."""
    far, place = values.abs().max(1)
    rows = far.topk(min(N_TOP, len(far))).indices.tolist()
    return [[n, int(place[n]), round(float(values[n, place[n]]), 5)] for n in rows]


def _look(sample: Tensor, words: Callable[[Tensor], list[str]] | None) -> dict[str, Any]:
    if not sample.is_floating_point():
        ids = sample.flatten()
        return {"tokens": words(ids) if words else [str(i) for i in ids.tolist()]}
    is_image = sample.dim() == 3 and len(sample) in (1, 3) and sample[0].numel() <= LARGEST
    return {"image": png(sample)} if is_image else {}


def _pairs(inputs: Tensor) -> Int[Tensor, "sample pair"] | None:
    """The two numbers that tell samples apart, if they are two and most of their pairs are there."""
    if inputs.is_floating_point() or inputs.dim() != 2:
        return None
    varying = inputs[:, (inputs != inputs[:1]).any(0)]
    if varying.shape[1] != 2 or int(varying.min()) < 0:
        return None
    n = int(varying.max()) + 1
    return varying if n * n * FILLED <= len(inputs) and n > 1 else None


def pair_map(
    pairs: Int[Tensor, "sample pair"], values: Float[Tensor, " sample"]
) -> Float[Tensor, "channel first second"]:
    """Values over both numbers of a pair: blue below the mean, red above, white what is not there."""
    n = int(pairs.max()) + 1
    share = values / values.abs().max().clamp_min(1e-30)
    red = torch.stack([1 + share.clamp(max=0), 1 - share.abs(), 1 - share.clamp(min=0)])
    image = torch.ones(3, n, n)
    image[:, pairs[:, 0], pairs[:, 1]] = red
    return image


def png(image: Float[Tensor, "channel height width"]) -> str:
    """An image of 1 or 3 channels, stretched to its range, as the address of a PNG that holds itself."""
    low, high = image.min(), image.max()
    pixels = ((image - low) / (high - low).clamp_min(1e-30) * 255).round().to(torch.uint8)
    channels, height, width = pixels.shape
    rows = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in pixels.permute(1, 2, 0))

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()
