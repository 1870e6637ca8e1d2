"""Do networks without anything learned show modules? They must not count as more than chance.

An untrained GPT-2, and a digits MLP before and after its weights are shuffled; modular addition from run folders
of `subscape reproduce modular-addition`, if they are there. Plain modularity is high for all of them. z against
graphs with swapped edges and, where that is enough, against networks with shuffled weights, tells them apart.

    python experiments/interaction_basis/chance.py --write docs/interaction-basis.md
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from subscape._io import read_json
from subscape.interaction_basis import (
    DISTANCE,
    BasisConfig,
    Scored,
    Task,
    all_edges_required,
    build_bases,
    build_graph,
    decoder_chain,
    find_modules,
    sequential_chain,
)
from subscape.interaction_basis.null import BEYOND
from subscape.interaction_basis.randomised import against_shuffled
from subscape.interaction_basis.stages import METHODS, load_graphs, thresholds
from subscape.interaction_basis.weights import of_model, shuffled, with_weights
from subscape.reproduce.digits import load_digits
from subscape.reproduce.modular_addition import modular_addition_task

sys.path.append(str(Path(__file__).parents[1]))
import tables
from page import kept, slug

TOLERANCE = 0.02


def untrained_gpt2(seed: int) -> Task:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = dict(vocab_size=200, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    model = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    return task_of(model, decoder_chain, torch.randint(0, 200, (100, 12)))


def digits(shuffled_by: int | None) -> Task:
    torch.manual_seed(0)
    images, labels = load_digits()
    widths = (64, 32, 32, 10)
    layers = []
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(1000):
        some = torch.randint(0, len(images), (128,))
        loss = torch.nn.functional.cross_entropy(model(images[some]), labels[some])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    if shuffled_by is not None:
        model = with_weights(model, shuffled(dict(model.named_parameters()), shuffled_by))
    return task_of(model.double().eval(), sequential_chain, images[:400].double())


@torch.no_grad()
def task_of(model, chain_of, inputs: torch.Tensor) -> Task:
    chain = chain_of(model)
    on = Scored(inputs, chain.outputs(inputs), DISTANCE, batch_size=100)
    return Task(chain, inputs, on, weights=of_model(model, chain_of))


def measured(task: Task, config: BasisConfig, n_networks: int, folder: Path | None) -> dict:
    """What was found of both methods, by method."""
    if folder is None:
        bases = build_bases(task.chain, task.inputs, config)
        graphs = {m: build_graph(task.chain, bases, task.inputs, method=m) for m in METHODS}
    else:
        graphs = load_graphs(folder)
    lines = {}
    for method, graph in graphs.items():
        if folder is None:
            needed = all_edges_required(task.chain, graph, task.scored, TOLERANCE, midpoint="log")
            limits = [n.threshold for n in needed]
        else:
            limits = thresholds(read_json(folder / "ablation.json"), method)
        found = find_modules(graph, limits)
        if found.swaps and found.beyond and n_networks:
            beside = against_shuffled(task, config, graph, limits, found, n_networks, method=method)
            found = replace(found, randomised=beside)
        both = [f"{c.z:.1f}" if c else "" for c in (found.swaps, found.randomised)]
        verdict = "modules" if found.beyond else "chance"
        if found.randomised and BEYOND <= found.randomised.z < found.randomised.needed:
            verdict = "too few networks"
        lines[method] = [str(len(found.sizes)), f"{found.modularity:.3f}", *both, verdict]
        print(method, found.described, flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/chance"))
    parser.add_argument("--runs", type=Path, default=Path("runs/modadd"))
    parser.add_argument("--networks", type=int, default=8)
    parser.add_argument("--write", type=Path, help="page to put the table into")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    signs, raw = BasisConfig(sign_positions=1, allow_low_rank=True), BasisConfig(last="raw")
    cases = {
        "digits MLP": (lambda: digits(None), raw, None),
        "digits MLP, shuffled": (lambda: digits(0), raw, None),
    }
    for seed in (0, 1, 3):
        folder = arguments.runs / f"seed{seed}"
        path = Path(os.environ.get("SUBSCAPE_DATA", "")) / f"rib_modadd/seed{seed}.safetensors"
        if folder.exists() and path.exists():
            task = lambda path=path: modular_addition_task(path)  # noqa: E731
            cases[f"modular addition, seed {seed}"] = task, raw, folder
    cases["untrained GPT-2"] = (lambda: untrained_gpt2(0)), signs, None
    head = ["network", "basis", "modules", "Q", "z, swapped edges", "z, shuffled weights", "said"]
    lines = []
    for name, (task, config, folder) in cases.items():
        file = arguments.out / f"{slug(name)}-{arguments.networks}.json"
        found = kept(
            file,
            lambda task=task, config=config, folder=folder: measured(
                task(), config, arguments.networks, folder
            ),
        )
        for method, line in found.items():
            lines.append([name, method.upper(), *line])
            print(*lines[-1], flush=True)
        if arguments.write:
            tables.write_into(arguments.write, "chance", tables.table(head, lines))


if __name__ == "__main__":
    main()
