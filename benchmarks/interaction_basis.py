"""Bases, edges and edge ablation of the modular-addition transformer on one thread: the library and plain loops.

Prints one JSON line per section and one for the whole; README.md says how to read benchmarks. Takes the
published checkpoint where SUBSCAPE_DATA names its folder, otherwise random weights of the same shape. Ablation is
scored on `--pairs` pairs, as the plain loop takes minutes for all; it counts the same edges.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch

from subscape.interaction_basis import (
    ACCURACY,
    Chain,
    InteractionGraph,
    Scored,
    build_graph,
    largest_edges,
)
from subscape.interaction_basis.ablation import LargestEdges, curve_of
from subscape.interaction_basis.build import BasisConfig, build_bases
from subscape.interaction_basis.edges import interactions_by_vjp
from subscape.interaction_basis.jacobian import jacobian_gram
from subscape.interaction_basis.passing import through_edges_by_loop
from subscape.interaction_basis.required import bisect, count_edges, required_of
from subscape.reproduce.modular_addition import (
    load_modular_addition,
    modular_addition_chain,
    modular_addition_data,
)

SEED = 3
RANDOM = "random weights"
TOLERANCE = 0.001


def random_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-2] ** 0.5

    attention = {f"W_{x}": draw(4, 128, 32) for x in "QKV"} | {"W_O": draw(4, 32, 128)}
    attention |= {f"b_{x}": 0.1 * draw(4, 32) for x in "QKV"} | {"b_O": 0.1 * draw(1, 128)[0]}
    return {f"blocks.0.attn.{k}": v for k, v in attention.items()} | {
        "embed.W_E": draw(114, 128),
        "pos_embed.W_pos": draw(3, 128),
        "blocks.0.mlp.W_in": draw(128, 512),
        "blocks.0.mlp.b_in": 0.1 * draw(1, 512)[0],
        "blocks.0.mlp.W_out": draw(512, 128),
        "blocks.0.mlp.b_out": 0.1 * draw(1, 128)[0],
        "unembed.W_U": draw(128, 114),
        "unembed.b_U": 0.1 * draw(1, 114)[0],
    }


def chain(dtype: torch.dtype = torch.float64) -> tuple[Chain, str]:
    named = os.environ.get("SUBSCAPE_DATA")
    path = Path(named or "") / f"rib_modadd/seed{SEED}.safetensors"
    if named and path.exists():
        return load_modular_addition(path, dtype), f"checkpoint of seed {SEED}"
    return modular_addition_chain(random_weights(), dtype), RANDOM


def plain_ablation(
    model: Chain, layer: int, graph: InteractionGraph, on: Scored, base: float
) -> tuple[int, list[tuple[int, float]]]:
    """Edges required by the published bisection, and the curve, with a run for every next direction."""
    basis, next_basis, edges = graph.bases[layer], graph.bases[layer + 1], graph.edges[layer]
    section = model.sections[layer]

    def score(k: int) -> float:
        mask = largest_edges(edges, k)

        def run(inputs: torch.Tensor) -> torch.Tensor:
            coordinates = basis.encode(model.nodes(inputs, layer)[-1])
            passed = through_edges_by_loop(section, basis, next_basis, mask, coordinates)
            return model.tail(layer + 1, next_basis.decode(passed))

        return on.of(run)

    total = count_edges(basis, next_basis)
    n = bisect(lambda k: on.score.within(score(k), base, TOLERANCE), total)
    numbers = sorted({0, edges.numel(), *(2**k for k in range(edges.numel().bit_length()))})
    return min(n, edges.numel()), [(k, score(k)) for k in numbers]


def compare_ablations(graph: InteractionGraph, n_pairs: int) -> None:
    model, which = chain(torch.float32)
    data = modular_addition_data()
    inputs, labels = data.test_inputs[:n_pairs], data.test_labels[:n_pairs]
    if which == RANDOM:
        labels = model.outputs(inputs).argmax(-1)
    on = Scored(inputs, labels, ACCURACY, batch_size=512)
    base = on.base(model)
    for layer in range(len(model)):
        cpu = [time.process_time()]
        kept = LargestEdges(model, layer, graph.bases, graph.edges[layer], on)
        required = required_of(kept, graph.bases[layer : layer + 2], base, TOLERANCE)
        cpu.append(time.process_time())
        curve = curve_of(kept, flat=lambda score: on.score.within(score, base, TOLERANCE))
        cpu.append(time.process_time())
        n_plain, plain_curve = plain_ablation(model, layer, graph, on, base)
        cpu.append(time.process_time())
        spent = [b - a for a, b in zip(cpu, cpu[1:], strict=False)]
        measured = dict(curve)
        print(
            json.dumps({
                "ablation": f"{model.names[layer]} -> {model.names[layer + 1]}",
                "pairs": len(inputs),
                "required_cpu_s": round(spent[0], 2),
                "curve_cpu_s": round(spent[1], 2),
                "plain_cpu_s": round(spent[2], 2),
                "times_faster": round(spent[2] / (spent[0] + spent[1]), 1),
                "edges": required.n_edges,
                "edges_plain": n_plain,
                "curve_difference": max(
                    abs(s - measured[k]) for k, s in plain_curve if k in measured
                ),
            }),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2048)
    n_pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    model, which = chain()
    inputs = modular_addition_data().train_inputs
    start, cpu = time.perf_counter(), time.process_time()
    bases = build_bases(model, inputs, BasisConfig(last="raw"))
    built = time.perf_counter()
    graph = build_graph(model, bases, inputs)
    end = time.perf_counter()
    print(
        json.dumps({
            "weights": which,
            "bases_s": round(built - start, 2),
            "edges_s": round(end - built, 2),
            "both_s": round(end - start, 2),
            "both_cpu_s": round(time.process_time() - cpu, 2),
        }),
        flush=True,
    )
    compare_ablations(graph, n_pairs)
    nodes = model.nodes(inputs)
    for layer, section in enumerate(model.sections):
        pair = bases.lib[layer : layer + 2]
        values = nodes[layer].split(256)
        times = [time.perf_counter()]
        # A lambda hides the closed form: one backward pass for every output direction.
        gram = jacobian_gram(lambda f, s=section: s(f), pair[1].into, values, pair[0].mean)
        times.append(time.perf_counter())
        edges = interactions_by_vjp(section, pair[0], pair[1], values)
        times.append(time.perf_counter())
        fast = jacobian_gram(section, pair[1].into, values, pair[0].mean)
        off_gram = float((gram - fast).abs().max() / gram.abs().max())
        off_edges = float((edges - graph.edges[layer]).abs().max() / edges.max())
        print(
            json.dumps({
                "section": f"{model.names[layer]} -> {model.names[layer + 1]}",
                "plain_jacobian_s": round(times[1] - times[0], 2),
                "plain_edges_s": round(times[2] - times[1], 2),
                "jacobian_difference": off_gram,
                "edges_difference": off_edges,
            }),
            flush=True,
        )


if __name__ == "__main__":
    main()
