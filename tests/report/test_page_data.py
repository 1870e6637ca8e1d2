"""Data of a page are refused at the door, with the place and the reason."""

import base64
import copy
import math
import re
from typing import Any

import numpy as np
import pytest

from subscape.report.page_data import checked

ABSENT = object()


@pytest.fixture(scope="module")
def data(make_data):
    return make_data("images", n=3, n_samples=2)


def changed(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one entry replaced or, for ABSENT, taken out."""
    copied = copy.deepcopy(data)
    place: Any = copied
    *steps, last = [int(s) if s.isdigit() else s for s in re.findall(r"\w+", path)]
    for step in steps:
        place = place[step]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return copied


@pytest.mark.parametrize(
    ("path", "value", "where", "why"),
    [
        ("format", "subscape-report/2", "data.format", "'subscape-report/1'"),
        ("title", ABSENT, "data.title", "no such key"),
        ("kind", "sounds", "data.kind", "one of tokens, images, vectors"),
        ("quality.fvu", math.nan, "data.quality.fvu", "nan"),
        ("quality.fvu", None, "data.quality.fvu", "None"),
        ("quality.fvu", True, "data.quality.fvu", "True"),
        ("quality.dead", 1.5, "data.quality.dead", "a number from 0 to 1"),
        ("quality.baseline", [], "data.quality.baseline", "Did you mean 'baselines'?"),
        ("target.tensors", [], "data.target.tensors", "at least 1"),
        ("target.tensors[0].shape", [64, -1], "data.target.tensors[0].shape[1]", "at least 0"),
        ("settings.steps", [1], "data.settings.steps", "[1]"),
        ("subnetworks", [], "data.subnetworks", "at least 1"),
        ("subnetworks[1].index", 2, "data.subnetworks[1].index", "expected 1"),
        ("subnetworks[1].impact", "high", "data.subnetworks[1].impact", "'high'"),
        ("subnetworks[2].tensors", [0.5], "data.subnetworks[2].tensors", "4 shares"),
        ("subnetworks[0].top_sample", [], "data.subnetworks[0].top_sample", "'top_samples'"),
        ("subnetworks[0].partners", [[3, 0.1]], "data.subnetworks[0].partners", "below 3"),
        ("subnetworks[0].sweep.random", [0.0], "data.subnetworks[0].sweep.random", "17 numbers"),
        ("subnetworks[0].sweep.relevant[3]", math.inf, "sweep.relevant[3]", "inf"),
        ("subnetworks[0].top_samples[1].image", 999, "top_samples[1].image", "into 200 images"),
        ("subnetworks[0].top_samples[1].at", 0, "top_samples[1].at", "into 0 tokens"),
        ("subnetworks[0].top_samples[1].label", 3, "top_samples[1].label", "a string"),
        ("subnetworks[0].top_outputs.up[0]", ["a"], "top_outputs.up[0]", "a pair"),
        ("images[0]", "https://example.org/a.png", "data.images[0]", "a data URI"),
        ("images[0]", "data:image/svg+xml;base64,AAAA", "data.images[0]", "a data URI"),
        ("similarity", [[1.0]], "data.similarity", "3 rows"),
        ("similarity[1]", [1.0], "data.similarity[1]", "3 numbers"),
        ("similarity[0][1]", None, "data.similarity[0][1]", "a finite number"),
        ("similarity[0][1]", math.nan, "data.similarity[0][1]", "from -1 to 1"),
        ("similarity[0][0]", 1.1, "data.similarity[0][0]", "from -1 to 1"),
        ("similarity[0][1]", 0.99, "data.similarity[0][1]", "symmetric"),
        ("coactivation[0][1]", None, "data.coactivation[0][1]", "symmetric"),
        ("coactivation[2][1]", "x", "data.coactivation[2][1]", "'x'"),
    ],
)
def test_bad_data_are_refused_with_the_place_and_the_reason(data, path, value, where, why):
    with pytest.raises(ValueError) as caught:
        checked(changed(data, path, value))
    assert where in str(caught.value)
    assert why in str(caught.value)


def test_data_that_are_no_mapping_are_refused():
    # Under test the annotation refuses them first, with words of its own.
    with pytest.raises(TypeError):
        checked([])  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [ABSENT, None])
def test_optional_keys_may_be_absent_or_null(data, value):
    copied = copy.deepcopy(data)
    optional = {
        "top_outputs": 1, "sweep": 1, "selectivity": 1, "validity_radius": 1, "partners": 1,
        "position": 2, "tokens": 2, "at": 2, "next": 2, "image": 2, "label": 2, "values": 2,
        "up": 2, "down": 2, "baselines": 3, "fvu_row_by_row": 3, "l0_row_by_row": 3,
        "images": 4, "figures": 4,
    }  # fmt: skip
    for key, level in optional.items():
        places = {
            1: copied["subnetworks"],
            2: [t for s in copied["subnetworks"] for t in s["top_samples"]],
            3: [copied["quality"]],
            4: [copied],
        }[level]
        for place in places:
            place[key] = None
            if value is ABSENT:
                del place[key]
    page = checked(copied)
    assert "images" not in page
    assert "sweep" not in page["subnetworks"][0]


def test_maps_are_packed_as_the_page_unpacks_them(data):
    n, page = 3, checked(data)
    for name in ("similarity", "coactivation"):
        packed = np.frombuffer(base64.b64decode(page[name]), "<i2")
        assert len(packed) == n * (n + 1) // 2
        rows = [[packed[a * n - a * (a - 1) // 2 + b - a] for b in range(a, n)] for a in range(n)]
        for a in range(n):
            for b in range(a, n):
                assert rows[a][b - a] / 32_000 == pytest.approx(data[name][a][b], abs=2e-5)


def test_the_caller_keeps_the_data_as_they_were(data):
    before = copy.deepcopy(data)
    checked(data)
    assert data == before


def test_numbers_are_rounded_to_what_can_be_read(data):
    page = checked(changed(data, "quality.fvu", 0.123456789))
    assert page["quality"]["fvu"] == 0.12346
    assert checked(changed(data, "quality.fvu", 1.2345678e-12))["quality"]["fvu"] == 1.2346e-12
