"""Made-up data of a report, near enough to real ones to judge the page by, and a browser to open it in."""

import base64
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park "
    "with her dog Max.\nOne day, they saw a big red ball near the tree. “Can I have it?” asked "
    "Lily. Her mom smiled and said, “Yes, but you must share.” They were very happy and ran home "
    "to eat some cake.\n\nThe cat did not like the rain. It hid under the bed and was sad."
)
WORDS = [f" {w}" if i else w for i, w in enumerate(STORY.split(" "))]
TENSORS = [("q_proj", [64, 64]), ("k_proj", [32, 64]), ("v_proj", [32, 64]), ("o_proj", [64, 64])]

Data = dict[str, Any]
MakeData = Callable[..., Data]


@pytest.fixture(scope="session")
def make_data() -> MakeData:
    """Make data of a kind with so many subnetworks and samples."""
    return synthetic


@pytest.fixture(scope="session")
def thousand(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 1,000 subnetworks, with little in each: checked calls are slow under test."""
    from subscape.report.page import write_page

    data = make_data("tokens", n=1000, n_samples=1)
    for subnetwork in data["measures"]["subnetworks"]:
        subnetwork |= {"sweep": None, "partners": []}
    return write_page(tmp_path_factory.mktemp("thousand") / "page.html", data)


@pytest.fixture(scope="session")
def put_tokens() -> Callable[..., None]:
    """Give the sample of a row other tokens."""
    return tokenised


def tokenised(data: Data, row: Data, words: list[str], at: int) -> None:
    names = data["measures"]["names"]["tokens"]
    number = {text: i for i, text in names.items()}
    for word in words:
        names.setdefault(number.setdefault(word, len(number)), word)
    data["samples"][row["sample"]] = {"tokens": [number[word] for word in words]}
    row["position"] = at


def synthetic(
    kind: str = "tokens", n: int = 24, n_samples: int = 20, context: int = 16, seed: int = 0
) -> Data:
    """The data of a page; the record of the measures as plain JSON, to change in tests."""
    import torch

    from subscape.measures import MeasureConfig
    from subscape.measures.record import Record
    from subscape.report.build import packed

    draw = np.random.default_rng(seed)
    named = {"tokens": "stories260k · model.layers.2.self_attn", "images": "Digits · small CNN"}
    tensors = [
        {"name": f"model.layers.2.self_attn.{t}.weight", "shape": s, "ranks": [6, 6]}
        for t, s in TENSORS
    ]
    if kind != "tokens":
        tensors = [
            {"name": "conv1.weight", "shape": [16, 1, 3, 3], "ranks": [4, 1, 3, 3]},
            {"name": "conv1.bias", "shape": [16], "ranks": [1]},
            {"name": "head.weight", "shape": [10, 64], "ranks": [4, 4]},
            {"name": "head.bias", "shape": [10], "ranks": [1]},
        ]
    impacts = np.sort(draw.lognormal(-2, 0.9, n))[::-1][draw.permutation(n)]
    rates = np.clip(draw.lognormal(-2.6, 1.1, n), 0, 0.9)
    if n > 5:
        rates[5] = 0.0
    directions = draw.normal(size=(n, 12)) + 1.5 * np.eye(6, 12)[draw.integers(0, 6, n)]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = directions @ directions.T
    together = cosines**3
    dead = np.flatnonzero(rates == 0)
    together[dead], together[:, dead] = np.nan, np.nan
    images, labels = digits() if kind == "images" else ([], [])
    outputs_named = [str(d) for d in range(10)] if kind == "images" else WORDS
    record: Data = {
        "format": "subscape-measures/2",
        "subscape_version": "0.1.0",
        "target": "abc",
        "decomposition": "abc def",
        "settings": asdict(MeasureConfig()),
        "divergence": "kl",
        "unit": "nats",
        "unit_of_changes": "nats",
        "logits": True,
        "reference": "another-row",
        "rows": "token" if kind == "tokens" else "sample",
        "n_rows": 20000,
        "n_references": 10,
        "spread": 1.25,
        "quality": {
            "fvu": 0.61,
            "l0": 10.0,
            "n_rows": 1024,
            "baselines": [
                {"name": "PCA, 10 components", "l0": 10.0, "fvu": 0.77},
                {"name": "random directions", "l0": 10.0, "fvu": 0.98},
                {"name": "oracle", "l0": 10.0, "fvu": 0.41},
            ],
        },
        "names": {"outputs": dict(enumerate(outputs_named)), "tokens": {}},
        "subnetworks": [],
    }
    data: Data = {
        "title": named.get(kind, "Toy of superposition · 5 features in 2 dimensions"),
        "model": {"tokens": "LlamaForCausalLM", "images": "SmallCNN"}.get(kind, "TMS"),
        "n_parameters": sum(int(np.prod(t["shape"])) for t in tensors),
        "tensors": tensors,
        "settings": {
            "divergence": "kl",
            "reference": "another-row",
            "rows": "token",
            "n_subnetworks": n,
            "rank": 6,
            "active_fraction": 0.1,
            "steps": 5000,
            "learning_rate": 0.001,
            "seed": 0,
        },
        "heldout": {
            "fvu": 0.5904123,
            "l0": 10.0,
            "dead": float((rates == 0).mean()),
            "heldout_rows": 1024,
            "fvu_row_by_row": 0.612,
            "l0_row_by_row": 10.3,
        },
        "notes": ["Fused attention was replaced by plain attention to differentiate forward."],
        "similarity": packed(torch.from_numpy(cosines)),
        "coactivation": packed(torch.from_numpy(together)),
        "samples": {},
        "figures": [],
        "measures": record,
    }
    if kind == "images":
        data["figures"] = [
            {"title": "Ranks.", "caption": "FVU against rank, five seeds.", "image": images[0]}
        ]
    for k in range(n):
        shares = draw.dirichlet(np.full(len(tensors), 0.6))
        favourite = int(draw.integers(len(WORDS)))
        chosen = np.flatnonzero(np.array(labels) == k % 10) if kind == "images" else None
        subnetwork = {
            "index": k,
            "impact": float(impacts[k]),
            "impact_signed": float(impacts[k] * draw.uniform(-1, 1)),
            "impact_normalised": 0.1,
            "active_rate": float(rates[k]),
            "tensors": shares.tolist(),
            "top_samples": [],
            "top_outputs": outputs(draw, len(outputs_named), 8),
            "delta": 2.0,
            "sweep": sweep(draw),
            "selectivity": {
                "delta": 1.0,
                "ratio": float(draw.uniform(2, 30)),
                "auroc": float(draw.uniform(0.7, 1)),
                "auroc_random": float(draw.uniform(0.45, 0.55)),
            },
            "validity_radius": float(draw.uniform(0.2, 0.9)),
            "partners": [[int(j), float(draw.uniform(0, 1))] for j in range(n) if j != k][:5],
        }
        sizes = np.sort(draw.lognormal(np.log(9 * impacts[k]), 0.4, n_samples))[::-1]
        for i, size in enumerate(sizes):
            number = k * n_samples + i
            row: Data = {
                "sample": number,
                "position": None,
                "impact": float(size),
                "signed": float(size * draw.choice([1, 1, 0.9, -0.95])),
                "outputs": outputs(draw, len(outputs_named), 3),
            }
            if kind == "tokens":
                start = int(draw.integers(len(WORDS)))
                words = [WORDS[(start + j) % len(WORDS)] for j in range(context)]
                at = int(draw.integers(context // 2, context))
                words[at] = WORDS[
                    favourite if draw.random() < 0.7 else (favourite + i) % len(WORDS)
                ]
                tokenised(data, row, words, at)
            elif kind == "images":
                assert chosen is not None
                image = int(chosen[i % len(chosen)])
                data["samples"][number] = {"image": images[image], "label": str(labels[image])}
            else:
                values = np.maximum(0, draw.uniform(-2, 1, 12))
                values[k % 12] = draw.uniform(0.5, 1)
                data["samples"][number] = {
                    "values": values.tolist(),
                    "label": f"feature {k % 12}",
                }
            subnetwork["top_samples"].append(row)
        record["subnetworks"].append(subnetwork)
    msgspec.convert(record, Record)
    return data


def outputs(draw: np.random.Generator, n: int, many: int) -> Data:
    def pairs(sign: int) -> list[list[Any]]:
        sizes = np.sort(draw.exponential(0.2, many))[::-1]
        chosen = draw.permutation(n)[:many]
        return [[int(j), float(sign * s)] for j, s in zip(chosen, sizes, strict=True)]

    return {"up": pairs(1), "down": pairs(-1)}


def sweep(draw: np.random.Generator) -> Data:
    delta = np.linspace(-2, 2, 17)
    slope = draw.uniform(0.3, 1)
    relevant: list[float | None] = (slope * delta**2 / (1 + 0.2 * np.abs(delta))).tolist()
    return {
        "delta": delta.tolist(),
        "relevant": relevant,
        "irrelevant": (0.08 * slope * delta**2).tolist(),
        "random": (0.05 * delta**2 + 0.01 * draw.random(17)).tolist(),
    }


def digits(n: int = 200) -> tuple[list[str], list[int]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = (found.images[:n] / 16 * 255).astype(np.uint8)
    return [png(p) for p in pixels], found.target[:n].tolist()


def png(grey: np.ndarray) -> str:
    """A grey picture as a data URI."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    height, width = grey.shape
    lines = b"".join(b"\0" + row.tobytes() for row in grey)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    whole = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(lines, 9))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(whole).decode()


# A browser


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium that keeps a log of every request and message; one for all tests."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        reason = "needs a browser: install chromium and chromium-driver"
        if os.environ.get("SUBSCAPE_BROWSER_TESTS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    profile: Path = tmp_path_factory.mktemp("profile")
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        "hide-scrollbars",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(executable_path=programs[1]))
    try:
        yield browser
    finally:
        browser.quit()
