"""What the subnetworks of an image classifier are good for: a block of a CIFAR ResNet-20, or of an MLP for digits.

    SUBSCAPE_DATA=… python experiments/image_classes.py --out runs/classes --write docs/geometry.md
    SUBSCAPE_DATA=… python experiments/image_classes.py digits --out runs/digits --write docs/geometry.md

Decomposes it under the settings of `SETTINGS` with two seeds each and prints a table:

- classes: share of the subnetworks of whose 10 held-out images of largest impact (|g · direction to push|, by
  which a report ranks them) at least 8 show one class; AUROC with which that impact tells the class from the rest;
- pushed: one subnetwork is pushed until the median KL of its top 1 % images is 0.1 nats; how much more those
  move than the median other image, how well the movement tells them from the others, and how much of it falls
  on them;
- stable: share of the subnetworks whose code correlates by 0.7 with that of their match in another seed's run;
- beside them random directions, principal directions and k-means centres of the training gradients in the same
  geometry, and the channels of the block's output.

`layer2.1` of the ResNet: 1,500 images are trained on, 500 are judged. The map between the MLP's hidden layers:
8,000 and 2,000. Two to three minutes of processor time a run. What was measured is kept under --out.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import digits
import resnet20
import torch
from sklearn.cluster import KMeans
from tables import table as markdown
from tables import write_into
from torch import Tensor, nn

import subscape
from subscape import Decomposition, GradientSource
from subscape._io import read_json, write_json
from subscape.measures import auroc
from subscape.measures.oracle import oracle
from subscape.rows import generator_of
from subscape.scorecard import pushes
from subscape.scorecard.chance import chance_of
from subscape.scorecard.pushes import Scene
from subscape.scorecard.stability import figures as counterparts

N_TOP, ENOUGH, N_PUSHED, AIM = 10, 8, 30, 0.1
COMMON: dict[str, Any] = {
    "n_subnetworks": 100,
    "learning_rate": 0.004,
    "divergence": "kl",
    "start": "clusters",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "published": {"recipe": "published", "l0": 10, "start": "random"},
    "whitened, random start": {"l0": 2, "start": "random"},
    "whitened": {"l0": 10},
    "whitened, L0 2": {"l0": 2},
    "whitened, 20 of L0 1": {"l0": 1, "n_subnetworks": 20},
}


def in_parts(source: GradientSource, draw: int = 0) -> list[Any]:
    """Row gradients of all samples, as the decomposition weighs and measures them."""
    parts = torch.arange(len(source)).split(64)
    return [source.gradients(source.rows_of(part, draw=draw)) for part in parts]


def by_class(values: Tensor, classes: Tensor) -> dict[str, float]:
    """Share of columns whose top images agree on a class; mean AUROC of columns for the class of most of them."""
    top = classes[values.abs().topk(N_TOP, dim=0).indices]
    most, class_of = torch.nn.functional.one_hot(top, 10).sum(0).max(1)
    own = [
        auroc(value[classes == c], value[classes != c])
        for value, c in zip(values.abs().mT, class_of, strict=True)
    ]
    agree = (most >= ENOUGH).double().mean()
    return {"agree": float(agree), "auroc": sum(own) / len(own)}


def channels(data: "Images") -> Tensor:
    """Mean of every channel of the block's output, or its neurons."""
    seen: list[Tensor] = []

    def see(_: nn.Module, __: Any, output: Tensor) -> None:
        seen.append(output.flatten(2).mean(2) if output.dim() > 2 else output)

    hook = data.network.get_submodule(data.block).register_forward_hook(see)
    with torch.no_grad():
        data.network(data.held)
    hook.remove()
    return seen[0]


@dataclass(frozen=True)
class Images:
    """The network, and images with their classes."""

    network: nn.Module
    block: str
    trained: Tensor
    held: Tensor
    classes: Tensor
    """Of the images held out."""
    options: dict[str, Any]
    """How its block is decomposed."""

    @classmethod
    def load(cls, name: str) -> "Images":
        package, block, n_trained, options = NETWORKS[name]
        images, labels = package.images(), package.labels()
        order = torch.randperm(len(images), generator=generator_of(0, 31))
        trained, held = order[:n_trained], order[n_trained:]
        return cls(package.model(), block, images[trained], images[held], labels[held], options)


NETWORKS: dict[str, tuple[Any, str, int, dict[str, Any]]] = {
    "resnet20": (
        resnet20,
        "layer2.1",
        1_500,
        # A quarter of the channels, kernels whole.
        {"rank": {"*.conv*": (8, 8, 3, 3), "*": 1}, "batch_size": 128, "steps": 200},
    ),
    "digits": (digits, "2", 8_000, {"rank": 0.25, "batch_size": 256, "steps": 400}),
}


def decomposed(data: Images, name: str, seed: int, out: Path) -> Decomposition:
    """A decomposition, from its folder if it is there."""
    return subscape.decompose(
        data.network,
        data.trained,
        heldout=data.held,
        parameters=data.block,
        seed=seed,
        out=out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}",
        **(COMMON | data.options | SETTINGS[name]),
    )


def pushed(result: Decomposition, source: GradientSource, impact: Tensor) -> dict[str, float]:
    """What pushing single directions does to the images they are for, and to the others."""
    scene = Scene.of(source, torch.arange(len(source)), AIM)
    some = torch.arange(min(N_PUSHED, len(result)))
    found = pushes.pushed(scene, result.directions.select(some), impact.abs()[:, some])
    names = ("ratio", "area", "share")
    return {name: value or 0.0 for name, value in zip(names, pushes.middle(found), strict=True)}


def figures(data: Images, name: str, out: Path) -> dict[str, Any]:
    """All figures of one setting."""
    result, other = (decomposed(data, name, seed, out) for seed in (0, 1))
    source = result.source(data.network, data.held)
    gradients = in_parts(source)
    rows = torch.cat([g.flat for g in gradients])

    def impact(directions: Tensor) -> dict[str, float]:
        return by_class(rows @ directions.mT, data.classes)

    def codes(of: Decomposition) -> Tensor:
        own = in_parts(of.source(data.network, data.held))
        return torch.cat([of.encode_gradients(g) for g in own])

    of_training = torch.cat([g.flat for g in in_parts(result.source(data.network, data.trained))])
    principal = torch.linalg.svd(of_training, full_matrices=False).Vh[: len(result)]
    units = torch.nn.functional.normalize(of_training, dim=1)
    clusters = KMeans(len(result), n_init=1, random_state=0)  # pyright: ignore[reportArgumentType]
    centres = torch.from_numpy(clusters.fit(units.numpy()).cluster_centers_)
    centres = torch.nn.functional.normalize(centres, dim=1)
    chance = chance_of(result)
    flat, random = result.decoder.flat(), chance.decoder.flat()
    return {
        **{key: result.metrics[key] for key in ("fvu", "l0", "dead")},
        "fvu_principal": oracle(rows, principal, result.metrics["l0"]).fvu,
        "fvu_k-means": oracle(rows, centres, result.metrics["l0"]).fvu,
        "stable": counterparts(codes(result), codes(other))[0],
        "subnetworks": impact(flat) | pushed(result, source, rows @ flat.mT),
        "random": impact(random)
        | pushed(replace(chance, geometry=result.geometry), source, rows @ random.mT),
        "principal": impact(principal),
        "k-means": impact(centres),
        "channels": by_class(channels(data), data.classes),
    }


def table(found: dict[str, Any]) -> str:
    """Settings, with what stands beside each."""
    head = ["setting", "K", "L0", "start", "FVU (principal, k-means)", "dead", "classes", "AUROC"]
    head += ["pushed: ratio; AUROC; share", "stable"]
    head += [f"{name}: classes, AUROC" for name in ("random", "principal", "k-means", "channels")]
    lines = []
    for name, own in found.items():
        options = COMMON | SETTINGS[name]
        ours = own["subnetworks"]
        lines.append([
            name,
            str(options["n_subnetworks"]),
            f"{own['l0']:.3g}",
            options["start"],
            f"{own['fvu']:.2f} ({own['fvu_principal']:.2f}, {own['fvu_k-means']:.2f})",
            f"{own['dead']:.0%}",
            f"{ours['agree']:.0%}",
            f"{ours['auroc']:.2f}",
            f"{ours['ratio']:.1f}; {ours['area']:.2f}; {ours['share']:.0%} (random "
            f"{own['random']['ratio']:.1f}; {own['random']['area']:.2f}; {own['random']['share']:.0%})",
            f"{own['stable']:.0%}",
            *(
                f"{own[k]['agree']:.0%}, {own[k]['auroc']:.2f}"
                for k in ("random", "principal", "k-means", "channels")
            ),
        ])
    return markdown(head, lines)


def main() -> None:
    """The table."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("network", nargs="?", choices=NETWORKS, default="resnet20")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=Path("runs/classes"))
    parser.add_argument("--write", type=Path, help="page to put the table into")
    arguments = parser.parse_args()
    data, found = Images.load(arguments.network), {}
    for name in arguments.settings:
        file = arguments.out / f"{name}.json"
        if not file.exists():
            write_json(file, figures(data, name, arguments.out))
        found[name] = read_json(file)
        print(table(found), flush=True)
    if arguments.write:
        write_into(arguments.write, arguments.network, table(found))


if __name__ == "__main__":
    main()
