import base64
import struct
import zlib

import torch

from subscape.interaction_basis import Affine, Chain, InteractionGraph
from subscape.interaction_basis.basis import raw_basis
from subscape.interaction_basis.responses import pair_map, png, responses


def pixels(address):
    """The numbers in a PNG that `png` made."""
    content = base64.b64decode(address.partition(",")[2])
    width, height, depth, kind = struct.unpack(">IIBB", content[16:26])
    assert depth == 8
    channels = {0: 1, 2: 3}[kind]
    start = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[start - 4 : start])
    rows = zlib.decompress(content[start + 4 : start + 4 + length])
    numbers = torch.tensor(list(rows)).reshape(height, 1 + width * channels)
    assert numbers[:, 0].eq(0).all()
    return numbers[:, 1:].reshape(height, width, channels)


def test_an_image_is_stretched_to_its_range():
    assert pixels(png(torch.tensor([[[0.0, 1.0], [2.0, 4.0]]])))[..., 0].tolist() == [
        [0, 64],
        [128, 255],
    ]
    assert pixels(png(torch.rand(3, 2, 5))).shape == (2, 5, 3)
    assert pixels(png(torch.zeros(1, 2, 2))).eq(0).all()


def test_a_map_is_red_above_the_mean_and_blue_below():
    pairs = torch.tensor([[0, 0], [0, 1], [1, 0]])
    image = pair_map(pairs, torch.tensor([2.0, -2.0, 0.0]))
    assert image[:, 0, 0].tolist() == [1, 0, 0]
    assert image[:, 0, 1].tolist() == [0, 0, 1]
    assert image[:, 1, 0].tolist() == image[:, 1, 1].tolist() == [1, 1, 1]


def chain_of(embed):
    eye, zero = torch.eye(2).double(), torch.zeros(2).double()
    bases = raw_basis("a", 2), raw_basis("b", 2)
    return Chain(("a", "b"), (Affine(eye, zero),), embed=embed), InteractionGraph(bases, (eye,))


def test_the_farthest_samples_and_places():
    def embed(images):
        return images.flatten(2).mT.double()

    images = torch.zeros(7, 2, 2, 1)
    images[3, 0, 1, 0], images[5, 0, 0, 0], images[2, 1, 1, 0] = -5.0, 4.0, 1.0
    shown = responses(*chain_of(embed), images)
    assert shown["layers"][0][0][:2] == [[3, 1, -5.0], [5, 0, 4.0]]
    assert shown["layers"][1][1][0] == [2, 1, 1.0]
    assert shown["samples"] == {} == shown["maps"]
    assert len(shown["layers"][0][0]) == 5


def test_tokens_and_pairs_are_shown_as_such():
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    inputs = torch.cat([pairs, torch.full((9, 1), 3)], 1)
    shown = responses(
        *chain_of(lambda t: t[:, :2].double()), inputs, words=lambda ids: [f"w{i}" for i in ids]
    )
    assert shown["samples"]["8"] == {"tokens": ["w2", "w2", "w3"]}
    assert set(shown["maps"]) == {"0.0", "0.1", "1.0", "1.1"}
    grid = pixels(shown["maps"]["0.0"])
    # The first number runs down: white, then redder.
    assert grid[0].eq(255).all() and grid[2, :, 1].eq(0).all()
