import base64
import io
import sys

import pytest
import torch
from PIL import Image

from subscape.report.images import data_uri, is_images


def opened(uri):
    head, _, body = uri.partition(",")
    return head, Image.open(io.BytesIO(base64.b64decode(body)))


def pixels(uri):
    picture = opened(uri)[1]
    values = torch.tensor(list(picture.tobytes()))
    return values.view(picture.size[1], picture.size[0], -1).squeeze(-1)


def test_what_is_an_image():
    for shape in ((5, 8, 8), (5, 1, 8, 8), (5, 3, 8, 6)):
        assert is_images(torch.zeros(shape))
    for shape in ((5, 2, 8, 8), (5, 64), (5, 1, 64), (5, 8, 8, 3), (5,)):
        assert not is_images(torch.zeros(shape))


def test_pixels_by_hand():
    """Numbers are stretched to bytes: −1 is black, 3 white, 1 half way: 127.5, rounded to even."""
    uri = data_uri(torch.tensor([[-1.0, 1.0], [3.0, -1.0]]))
    assert uri.startswith("data:image/png;base64,")
    assert pixels(uri).tolist() == [[0, 128], [255, 0]]
    # Bytes stay as they are; a flat image is black.
    image = torch.tensor([[[3, 7]], [[20, 21]], [[200, 0]]], dtype=torch.uint8)
    assert pixels(data_uri(image)).tolist() == [[[3, 20, 200], [7, 21, 0]]]
    assert pixels(data_uri(torch.full((4, 4), 7.0))).tolist() == [[0] * 4] * 4
    for dtype in (torch.float16, torch.bfloat16, torch.int64, torch.bool):
        image = torch.tensor([[[0, 1], [1, 0]]]).to(dtype)
        assert pixels(data_uri(image)).tolist() == [[0, 255], [255, 0]]


def test_large_images_become_small_ones():
    image = torch.rand(3, 200, 100)
    head, picture = opened(data_uri(image))
    assert head == "data:image/jpeg;base64"
    assert picture.size == (32, 64)
    assert picture.mode == "RGB"
    assert len(data_uri(image)) < 5_000
    head, picture = opened(data_uri(image[:1, :32, :32]))
    assert (head, picture.size, picture.mode) == ("data:image/png;base64", (32, 32), "L")


def test_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"PIL.*subscape\[plot\]"):
        data_uri(torch.zeros(2, 2))
