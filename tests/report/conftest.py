"""Made-up data of a report, near enough to real ones to judge the page by, and a browser to open it in."""

import base64
import io
from dataclasses import asdict

import msgspec
import numpy as np
import pytest
from PIL import Image

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park "
    "with her dog Max.\nOne day, they saw a big red ball near the tree. “Can I have it?” asked "
    "Lily. Her mom smiled and said, “Yes, but you must share.” They were very happy and ran home "
    "to eat some cake.\n\nThe cat did not like the rain. It hid under the bed and was sad."
)
WORDS = [f" {w}" if i else w for i, w in enumerate(STORY.split(" "))]


def tensor(name, shape, ranks):
    return {"name": name, "shape": shape, "ranks": ranks}


SHAPES = {"q_proj": [64, 64], "k_proj": [32, 64], "v_proj": [32, 64], "o_proj": [64, 64]}
ATTENTION = [
    tensor(f"model.layers.2.self_attn.{name}.weight", shape, [6, 6])
    for name, shape in SHAPES.items()
]
CNN = [
    tensor("conv1.weight", [16, 1, 3, 3], [4, 1, 3, 3]),
    tensor("conv1.bias", [16], [1]),
    tensor("head.weight", [10, 64], [4, 4]),
    tensor("head.bias", [10], [1]),
]
KINDS = {
    "tokens": ("stories260k · model.layers.2.self_attn", "LlamaForCausalLM", ATTENTION),
    "images": ("Digits · small CNN", "SmallCNN", CNN),
    "vectors": ("Toy of superposition · 5 features in 2 dimensions", "TMS", CNN),
}


@pytest.fixture(scope="session")
def make_data():
    """Make data of a kind with so many subnetworks and samples."""
    return synthetic


@pytest.fixture(scope="session")
def thousand(make_data, tmp_path_factory):
    """A page of 1,000 subnetworks, with little in each: checked calls are slow under test."""
    from subscape.report.page import write_page

    data = make_data("tokens", n=1000, n_samples=1)
    for subnetwork in data["measures"]["subnetworks"]:
        subnetwork |= {"sweep": None, "partners": []}
    return write_page(tmp_path_factory.mktemp("thousand") / "page.html", data)


@pytest.fixture(scope="session")
def put_tokens():
    """Give the sample of a row other tokens."""
    return tokenised


def tokenised(data, row, words, at):
    names = data["measures"]["names"]["tokens"]
    number = {text: i for i, text in names.items()}
    for word in words:
        names.setdefault(number.setdefault(word, len(number)), word)
    data["samples"][row["sample"]] = {"tokens": [number[word] for word in words]}
    row["position"] = at


def synthetic(kind="tokens", n=24, n_samples=20, context=16, seed=0, moving=False):
    """The data of a page; the record of the measures as plain JSON, to change in tests."""
    import torch

    from subscape.measures import MeasureConfig
    from subscape.measures.record import Record
    from subscape.report.build import related
    from subscape.subnetworks.neighbours import Neighbours

    draw = np.random.default_rng(seed)
    title, model, tensors = KINDS[kind]
    impacts = np.sort(draw.lognormal(-2, 0.9, n))[::-1][draw.permutation(n)]
    rates = np.clip(draw.lognormal(-2.6, 1.1, n), 0, 0.9)
    rates[5:6] = 0.0
    directions = draw.normal(size=(n, 12)) + 1.5 * np.eye(6, 12)[draw.integers(0, 6, n)]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = directions @ directions.T
    together = cosines**3
    dead = np.flatnonzero(rates == 0)
    together[dead], together[:, dead] = np.nan, np.nan
    images, labels = digits() if kind == "images" else ([], [])
    outputs_named = [str(d) for d in range(10)] if kind == "images" else WORDS
    kinds = dict(divergence="kl", reference="another-row", rows="token")
    training = dict(n_subnetworks=n, rank=6, active_fraction=0.1, steps=5000, seed=0)
    metrics = dict(fvu=0.5904123, l0=10.0, heldout_rows=1024, dead=float((rates == 0).mean()))
    fvu_of = {"PCA, 10 components": 0.77, "random directions": 0.98, "oracle": 0.41}
    baselines = [dict(name=name, l0=10.0, fvu=fvu) for name, fvu in fvu_of.items()]
    record = dict(format="subscape-measures/2", subscape_version="0.1.0") | kinds
    record |= dict(target="abc", decomposition="abc def", settings=asdict(MeasureConfig()))
    record |= dict(unit="nats", unit_of_changes="nats", logits=True, spread=1.25)
    record |= dict(rows="token" if kind == "tokens" else "sample", n_rows=20000, n_references=10)
    record["quality"] = dict(fvu=0.61, l0=10.0, n_rows=1024, baselines=baselines)
    record["names"] = {"outputs": dict(enumerate(outputs_named)), "tokens": {}}
    record["subnetworks"] = []
    data = dict(
        title=title,
        model=model,
        n_parameters=sum(int(np.prod(t["shape"])) for t in tensors),
        tensors=tensors,
        settings=kinds | training,
        heldout=metrics | dict(fvu_row_by_row=0.612, l0_row_by_row=10.3),
        notes=["Fused attention was replaced by plain attention to differentiate forward."],
        similarity=related(Neighbours.of([torch.from_numpy(cosines)])),
        coactivation=related(Neighbours.of([torch.from_numpy(together)])),
        samples={},
        figures=[dict(title="Ranks.", caption="FVU by rank.", image=image) for image in images[:1]],
        measures=record,
    )
    selectivity = dict(ratio=(2, 30), auroc=(0.7, 1), auroc_random=(0.45, 0.55))
    for k in range(n):
        subnetwork = dict(
            index=k,
            impact=float(impacts[k]),
            impact_signed=float(impacts[k] * draw.uniform(-1, 1)),
            impact_normalised=0.1,
            active_rate=float(rates[k]),
            tensors=draw.dirichlet(np.full(len(tensors), 0.6)).tolist(),
            top_samples=[],
            top_outputs=outputs(draw, len(outputs_named), 8),
            delta=2.0,
            sweep=sweep(draw),
            selectivity={"delta": 1.0} | {m: draw.uniform(*r) for m, r in selectivity.items()},
            validity_radius=draw.uniform(0.2, 0.9),
            partners=[[j, draw.uniform(0, 1)] for j in range(min(n, 6)) if j != k][:5],
        )
        favourite = int(draw.integers(len(WORDS)))
        chosen = np.flatnonzero(np.array(labels) == k % 10)
        sizes = np.sort(draw.lognormal(np.log(9 * impacts[k]), 0.4, n_samples))[::-1].tolist()
        for i, size in enumerate(sizes):
            number = k * n_samples + i
            row = dict(sample=number, position=None, impact=size)
            row["signed"] = size * float(draw.choice([1, 1, 0.9, -0.95]))
            row["outputs"] = outputs(draw, len(outputs_named), 5)
            if kind == "tokens":
                start = int(draw.integers(len(WORDS)))
                words = [WORDS[(start + j) % len(WORDS)] for j in range(context)]
                at = int(draw.integers(context // 2, context))
                shift = 0 if draw.random() < 0.7 else i
                words[at] = WORDS[(favourite + shift) % len(WORDS)]
                tokenised(data, row, words, at)
            elif kind == "images":
                image = int(chosen[i % len(chosen)])
                data["samples"][number] = {"image": images[image], "label": str(labels[image])}
            else:
                values = np.maximum(0, draw.uniform(-2, 1, 12))
                values[k % 12] = draw.uniform(0.5, 1)
                label = f"feature {k % 12}"
                data["samples"][number] = {"values": values.tolist(), "label": label}
            subnetwork["top_samples"].append(row)
        record["subnetworks"].append(subnetwork)
    msgspec.convert(record, Record)
    if moving:
        data["moving"] = {"names": {}, "rows": {k: pushed(draw, k, n) for k in range(n)}}
    return data


def pushed(draw, k, n, deltas=17):
    """What sliders show: six outputs of two own rows and of one of another subnetwork."""
    places = [(k, True, 0), (k, True, 1), ((k + 1) % n, False, 0)]
    values = draw.random((3, 6, deltas)).round(4).tolist()
    return [
        dict(subnetwork=j, own=own, place=place, outputs=list(range(6)), values=lines)
        for (j, own, place), lines in zip(places, values, strict=True)
    ]


def outputs(draw, n, many):
    def pairs(sign):
        sizes = np.sort(draw.exponential(0.2, many))[::-1]
        pairs = zip(draw.permutation(n).tolist(), sizes.tolist(), strict=False)
        return [[j, float(f"{sign * size:.6g}")] for j, size in pairs]

    return {"up": pairs(1), "down": pairs(-1)}


def sweep(draw):
    delta = np.linspace(-2, 2, 17)
    slope = draw.uniform(0.3, 1)
    curves = dict(
        delta=delta,
        relevant=slope * delta**2 / (1 + 0.2 * np.abs(delta)),
        irrelevant=0.08 * slope * delta**2,
        random=0.05 * delta**2 + 0.01 * draw.random(17),
    )
    return {name: values.tolist() for name, values in curves.items()}


def digits(n=200):
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = (found.images[:n] / 16 * 255).astype(np.uint8)
    return [png(p) for p in pixels], found.target[:n].tolist()


def png(grey):
    """A grey picture as a data URI."""
    written = io.BytesIO()
    Image.fromarray(grey).save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
