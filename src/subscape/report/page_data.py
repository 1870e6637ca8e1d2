"""The data of a report page: what they must look like, checked at the door and made compact.

In goes a mapping in the format `subscape-report/1`; out comes the same with numbers rounded to what
a reader can use, optional keys that hold nothing left out, and the two maps packed into bytes. What
the figures mean and how they are drawn is not known here.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from subscape._checks import nearest, problem, require

FORMAT = "subscape-report/1"
KINDS = ("tokens", "images", "vectors")

Check = Callable[[str, Any], Any]
"""Takes where a value stands and the value; returns it compact, or raises."""

_DIGITS = 5
_IMAGE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}\Z")
# Cosines and correlations in floating point may pass 1, and differ across the diagonal, by a little.
_SLACK = 1e-3
_PACKED_ONE = 32_000
_PACKED_NULL = -32_768


def checked(data: Mapping[str, Any]) -> dict[str, Any]:
    """Check the data of a page and make them compact.

    Args:
        data: the data, in the format `subscape-report/1`.

    Returns:
        A new mapping for the page; nothing in it is shared with `data` that could be changed.

    Raises:
        TypeError: if the data are no mapping.
        ValueError: if something is missing, unknown, of the wrong length or not finite.
    """
    require(isinstance(data, Mapping), "data", "a mapping", type(data).__name__, error=TypeError)
    require(
        data.get("format") == FORMAT,
        "data.format",
        repr(FORMAT),
        data.get("format", "no such key"),
        "Make the data again with this version of subscape.",
    )
    page = _PAGE("data", data)
    n = len(page["subnetworks"])
    n_tensors = len(page["target"]["tensors"])
    n_images = len(page.get("images", []))
    for k, subnetwork in enumerate(page["subnetworks"]):
        _agree(f"data.subnetworks[{k}]", subnetwork, k, n, n_tensors, n_images)
    page["similarity"] = _packed("data.similarity", page["similarity"], n, gaps=False)
    page["coactivation"] = _packed("data.coactivation", page["coactivation"], n, gaps=True)
    return page


def _agree(
    where: str, subnetwork: dict[str, Any], k: int, n: int, n_tensors: int, n_images: int
) -> None:
    """Lengths and references of one subnetwork against the rest of the data."""
    index = subnetwork["index"]
    require(index == k, f"{where}.index", f"{k}, as subnetworks stand in their order", index)
    shares = len(subnetwork["tensors"])
    require(shares == n_tensors, f"{where}.tensors", f"{n_tensors} shares, one a tensor", shares)
    for other, _ in subnetwork.get("partners", []):
        require(other < n, f"{where}.partners", f"indices below {n}", other)
    for i, sample in enumerate(subnetwork["top_samples"]):
        here = f"{where}.top_samples[{i}]"
        image, at, tokens = sample.get("image"), sample.get("at"), sample.get("tokens")
        if image is not None:
            require(image < n_images, f"{here}.image", f"an index into {n_images} images", image)
        if at is not None:
            have = len(tokens or [])
            require(at < have, f"{here}.at", f"an index into {have} tokens", at)
    sweep = subnetwork.get("sweep", {})
    for name in sweep.keys() - {"delta"}:
        have, want = len(sweep[name]), len(sweep["delta"])
        require(have == want, f"{where}.sweep.{name}", f"{want} numbers, one a δ", have)


def _packed(where: str, rows: Any, n: int, *, gaps: bool) -> str:
    """The upper triangle of a symmetric map, diagonal included, as base64 of 16-bit numbers."""
    _need(_is_list(rows) and len(rows) == n, where, f"{n} rows", rows)
    for i, row in enumerate(rows):
        _need(_is_list(row) and len(row) == n, f"{where}[{i}]", f"{n} numbers", row)
        for j, value in enumerate(row):
            # The quick test first: there are n² of these.
            if type(value) is not float and not (gaps and value is None):
                _number()(f"{where}[{i}][{j}]", value)
    array = np.array(rows, dtype=np.float64).reshape(n, n)
    null = np.array([[v is None for v in row] for row in rows], dtype=bool).reshape(n, n)
    wrong = ~null & ~(np.abs(array) <= 1 + _SLACK)
    lopsided = ~wrong & ~wrong.T & ~null & ~(null.T | (np.abs(array - array.T) <= _SLACK))
    lopsided |= null != null.T
    for bad, expected in ((wrong, "a number from -1 to 1"), (lopsided, "a symmetric map")):
        if bad.any():
            i, j = (int(x) for x in np.argwhere(bad)[0])
            got = f"{rows[i][j]!r} there and {rows[j][i]!r} at [{j}][{i}]"
            raise ValueError(problem(f"{where}[{i}][{j}]", expected, got))
    whole = np.round(np.clip(np.where(null, 0, array), -1, 1) * _PACKED_ONE)
    whole = np.where(null, _PACKED_NULL, whole).astype("<i2")
    return base64.b64encode(whole[np.triu_indices(n)].tobytes()).decode("ascii")


# Kinds of values


def _number(low: float | int = -math.inf, high: float | int = math.inf) -> Check:
    words = "a finite number"
    if low > -math.inf:
        words = f"a number from {low:g}" + (f" to {high:g}" if high < math.inf else " up")

    def check(where: str, value: Any) -> float | int:
        right = isinstance(value, int | float) and not isinstance(value, bool)
        require(right and math.isfinite(value) and low <= value <= high, where, words, repr(value))
        return _rounded(value)

    return check


def _count(where: str, value: Any) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(whole and value >= 0, where, "a whole number of at least 0", repr(value))
    return int(value)


def _text(where: str, value: Any) -> str:
    _need(isinstance(value, str), where, "a string", value)
    return value


def _image(where: str, value: Any) -> str:
    # Anything else would let the page ask the network, or carry a document of its own.
    right = isinstance(value, str) and _IMAGE.match(value) is not None
    expected = "a data URI of a PNG, JPEG, GIF or WebP picture in base64"
    require(right, where, expected, f"{_text(where, value)[:40]!r}")
    return value


def _scalar(where: str, value: Any) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    return _number()(where, value)


def _one_of(*words: str) -> Check:
    def check(where: str, value: Any) -> str:
        require(value in words, where, f"one of {', '.join(words)}", repr(value))
        return value

    return check


def _nullable(item: Check) -> Check:
    return lambda where, value: None if value is None else item(where, value)


def _list(item: Check, at_least: int = 0) -> Check:
    def check(where: str, value: Any) -> list[Any]:
        _need(_is_list(value), where, "a list", value)
        require(len(value) >= at_least, where, f"at least {at_least} of them", len(value))
        return [item(f"{where}[{i}]", element) for i, element in enumerate(value)]

    return check


def _pair(first: Check, second: Check) -> Check:
    def check(where: str, value: Any) -> list[Any]:
        _need(_is_list(value) and len(value) == 2, where, "a pair", value)
        return [first(f"{where}[0]", value[0]), second(f"{where}[1]", value[1])]

    return check


def _free(where: str, value: Any) -> dict[str, Any]:
    _need(isinstance(value, Mapping), where, "a mapping", value)
    return {_text(where, key): _scalar(f"{where}.{key}", entry) for key, entry in value.items()}


def _record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    optional = optional or {}
    known = {**required, **optional}

    def check(where: str, value: Any) -> dict[str, Any]:
        _need(isinstance(value, Mapping), where, "a mapping", value)
        for key in required:
            require(key in value, f"{where}.{key}", "a value", "no such key")
        for key in value.keys() - known.keys():
            hint = nearest(str(key), known)
            raise ValueError(problem(f"{where}.{key}", "a known key", "an unknown one", hint))
        return {
            key: known[key](f"{where}.{key}", entry)
            for key, entry in value.items()
            if entry is not None or key in required
        }

    return check


def _need(condition: bool, where: str, expected: str, value: Any) -> None:
    # Unlike `require`, words the error only when there is one: there may be millions of values.
    if not condition:
        raise ValueError(problem(where, expected, _shown(value)))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _shown(value: Any) -> str:
    return f"{len(value)} of them" if _is_list(value) else f"{value!r:.80}"


def _rounded(value: float | int) -> float | int:
    if isinstance(value, int):
        return int(value)
    short = float(f"{value:.{_DIGITS}g}")
    # 0.0 and 3.0 are as good as 0 and 3, and shorter.
    return int(short) if short.is_integer() and abs(short) < 1e6 else short


# The format


def _unchecked(where: str, value: Any) -> Any:
    return value


_SHARE = _number(0, 1 + _SLACK)
_NUMBERS = _list(_number())
_GAPPED = _list(_nullable(_number()))
_OUTPUTS = _list(_pair(_text, _number()))
_SAMPLE = _record(
    {"sample": _count, "impact": _number(0), "signed": _number()},
    {
        "position": _count,
        "tokens": _list(_text),
        "at": _count,
        "next": _text,
        "image": _count,
        "label": _text,
        "values": _NUMBERS,
        "up": _OUTPUTS,
        "down": _OUTPUTS,
    },
)
_SUBNETWORK = _record(
    {
        "index": _count,
        "active_rate": _SHARE,
        "impact": _number(0),
        "impact_signed": _number(),
        "impact_share": _SHARE,
        "tensors": _list(_SHARE),
        "top_samples": _list(_SAMPLE),
    },
    {
        "top_outputs": _record({"up": _OUTPUTS, "down": _OUTPUTS}),
        "sweep": _record({
            "delta": _NUMBERS,
            "relevant": _GAPPED,
            "irrelevant": _GAPPED,
            "random": _GAPPED,
        }),
        "selectivity": _record(
            {}, {"ratio": _number(0), "auroc": _SHARE, "auroc_random": _SHARE, "delta": _number()}
        ),
        "validity_radius": _number(0),
        "partners": _list(_pair(_count, _number())),
    },
)
_TENSOR = _record({"name": _text, "shape": _list(_count)}, {"ranks": _list(_count)})
_QUALITY = _record(
    {"fvu": _number(0), "l0": _number(0), "dead": _SHARE, "heldout_rows": _count},
    {
        "fvu_row_by_row": _number(0),
        "l0_row_by_row": _number(0),
        "fvu_measured": _number(0),
        "l0_measured": _number(0),
        "baselines": _list(_record({"name": _text, "fvu": _number(0)}, {"l0": _number(0)})),
    },
)
_PAGE = _record(
    {
        "format": _text,
        "title": _text,
        "subscape_version": _text,
        "kind": _one_of(*KINDS),
        "model": _free,
        "target": _record({"n_parameters": _count, "tensors": _list(_TENSOR, at_least=1)}),
        "settings": _free,
        "quality": _QUALITY,
        "measured": _record(
            {"n_rows": _count, "n_references": _count, "unit": _text},
            {"notes": _list(_text)},
        ),
        # Square, and so many numbers that they are checked all at once, by `_packed`.
        "similarity": _unchecked,
        "coactivation": _unchecked,
        "subnetworks": _list(_SUBNETWORK, at_least=1),
    },
    {
        "images": _list(_image),
        "figures": _list(_record({"title": _text, "caption": _text, "image": _image})),
    },
)
