"""The published negative result on a language model: LIB needs about as many edges as PCA does.

Bases of all 33 node layers of a 5-block Llama-style model (TinyStories, 260k parameters) over at least
50,000 tokens, then the number of edges per section that keeps the next-token cross-entropy within a
tolerance. Expected: a ratio LIB / PCA near 1.

    python experiments/interaction_basis/stories260k.py --data FOLDER --out runs/stories260k
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from subscape._io import write_json
from subscape.data import text_windows
from subscape.interaction_basis import (
    NEXT_TOKEN,
    BasisConfig,
    InteractionGraph,
    Scored,
    build_bases,
    build_graph,
    decoder_chain,
    edge_curve,
    edges_required,
)
from subscape.interaction_basis.pictures import draw_curves, panels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    named = os.environ.get("SUBSCAPE_DATA")
    parser.add_argument("--data", type=Path, default=named, required=named is None)
    parser.add_argument("--out", type=Path, default=Path("runs/stories260k"))
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=48, help="held-out ones that are scored")
    parser.add_argument("--tolerance", type=float, default=0.1, help="nats")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    folder = Path(arguments.data) / "stories260k"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    stories = Path(arguments.data) / "tinystories"
    length = arguments.length
    train = text_windows(stories / "train_sample.txt", tokenizer, length=length)["input_ids"]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    used = train[order[: -(-arguments.tokens // length)]]
    held_out = text_windows(stories / "heldout_sample.txt", tokenizer, length=length)["input_ids"]
    held_out = held_out[-arguments.sequences :]

    chain = decoder_chain(model)
    # Means and covariances over all windows, Jacobians over those asked for.
    config = BasisConfig(sign_positions=1, batch_size=8)
    start = time.time()
    bases = build_bases(
        chain, used, config, gram_inputs=train, folder=arguments.out / "build", progress=True
    )
    times = {"bases": time.time() - start}
    on = Scored(held_out, held_out, NEXT_TOKEN, batch_size=48)
    base = on.base(chain)
    results = {
        "tokens": used.numel(),
        "gram_tokens": train.numel(),
        "tolerance": arguments.tolerance,
        "cross_entropy": base,
        "layers": [],
        "seconds": times,
    }
    graphs: dict[str, InteractionGraph] = {}
    for method in ("lib", "pca"):
        start = time.time()
        graphs[method] = build_graph(
            chain, bases, used, method=method, folder=arguments.out / "build", progress=True
        )
        graphs[method].save(arguments.out / method, overwrite=True)
        times[f"edges_{method}"] = time.time() - start
    for layer in range(len(chain)):
        row: dict[str, Any] = {"from": chain.names[layer], "to": chain.names[layer + 1]}
        for method, graph in graphs.items():
            try:
                found = edges_required(
                    chain, graph, layer, on, arguments.tolerance, base=base, midpoint="log"
                )
                row[method] = found.n_edges
            except ValueError as error:
                row[method] = None
                row[f"{method}_error"] = str(error)
            numbers = [4**k for k in range(2, 7)]
            curve = edge_curve(chain, layer, graph.bases, graph.edges[layer], on, numbers)
            row[f"{method}_curve"] = curve
        print(row["from"], row["lib"], row["pca"], flush=True)
        results["layers"].append(row)
        write_json(arguments.out / "results.json", results)
    summarise(results)
    write_json(arguments.out / "results.json", results)
    draw(results, arguments.out / "curves.png")
    for kind, counts in results["by_kind"].items():
        print(f"{kind}: {counts}, LIB / PCA = {counts['lib'] / counts['pca']:.2f}")
    print(f"edges required: {results['total']}, LIB / PCA = {results['ratio']:.3f}")


def summarise(results: dict[str, Any]) -> None:
    """Add up the edges required, in all and by kind of section (the node layer it starts at)."""
    results["by_kind"] = {}
    for row in results["layers"]:
        if row["lib"] and row["pca"]:
            kind = results["by_kind"].setdefault(row["from"].split(".")[0], {"lib": 0, "pca": 0})
            for method in kind:
                kind[method] += row[method]
    sums = results["by_kind"].values()
    results["total"] = {method: sum(kind[method] for kind in sums) for method in ("lib", "pca")}
    results["ratio"] = results["total"]["lib"] / results["total"]["pca"]


def draw(results: dict[str, Any], path: Path) -> None:
    """Cross-entropy over edges kept, a panel per section."""
    figure, grid = panels(len(results["layers"]), columns=6, width=3.2, height=2.6)
    for axes, row in zip(grid, results["layers"], strict=True):
        curves = {method: row[f"{method}_curve"] for method in ("lib", "pca")}
        draw_curves(curves, "cross-entropy", "edges", axes=axes)
        axes.axhline(results["cross_entropy"] + results["tolerance"], color="0.7", zorder=0)
        axes.set_title(f"{row['from']} → {row['to']}", fontsize=9)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
