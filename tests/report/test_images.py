import base64
import io
import sys

import pytest
import torch
from PIL import Image

from subscape.report.images import data_uri, is_images


def opened(uri: str):
    head, _, body = uri.partition(",")
    return head, Image.open(io.BytesIO(base64.b64decode(body)))


def pixels(uri: str) -> torch.Tensor:
    picture = opened(uri)[1]
    values = torch.tensor(list(picture.tobytes()))
    return values.view(picture.size[1], picture.size[0], -1).squeeze(-1)


@pytest.mark.parametrize(
    ("shape", "right"),
    [
        ((5, 8, 8), True),
        ((5, 1, 8, 8), True),
        ((5, 3, 8, 6), True),
        ((5, 2, 8, 8), False),
        ((5, 64), False),
        ((5, 1, 64), False),
        ((5, 8, 8, 3), False),
        ((5,), False),
    ],
)
def test_what_is_an_image(shape, right: bool):
    assert is_images(torch.zeros(shape)) is right


def test_numbers_are_stretched_to_bytes():
    """−1 is black, 3 white, 1 half way: 127.5, rounded to even."""
    uri = data_uri(torch.tensor([[-1.0, 1.0], [3.0, -1.0]]))
    assert uri.startswith("data:image/png;base64,")
    assert pixels(uri).tolist() == [[0, 128], [255, 0]]


def test_bytes_stay_as_they_are():
    image = torch.tensor([[[3, 7]], [[20, 21]], [[200, 0]]], dtype=torch.uint8)
    assert pixels(data_uri(image)).tolist() == [[[3, 20, 200], [7, 21, 0]]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_any_type_of_number(dtype):
    image = torch.tensor([[[0, 1], [1, 0]]]).to(dtype)
    assert pixels(data_uri(image)).tolist() == [[0, 255], [255, 0]]


def test_a_flat_image_is_black():
    assert pixels(data_uri(torch.full((4, 4), 7.0))).tolist() == [[0] * 4] * 4


def test_large_images_become_small_ones():
    image = torch.rand(3, 200, 100, generator=torch.Generator().manual_seed(0))
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
