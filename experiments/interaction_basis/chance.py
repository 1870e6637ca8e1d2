"""Do networks without anything learned show modules? They must not count as more than chance.

An untrained GPT-2, and a digits MLP with the weights of every layer shuffled; both beside the trained MLP. Plain
modularity is high for all of them; z against graphs with swapped edges tells them apart.

    python experiments/interaction_basis/chance.py
"""

import torch
import transformers

from subscape.interaction_basis import (
    DISTANCE,
    BasisConfig,
    Scored,
    all_edges_required,
    build_bases,
    build_graph,
    decoder_chain,
    find_modules,
    sequential_chain,
)
from subscape.interaction_basis.weights import of_model
from subscape.reproduce.digits import load_digits


def report(name, chain, inputs, config, tolerance=0.02, methods=("lib", "pca")) -> None:
    with torch.no_grad():
        on = Scored(inputs, chain.outputs(inputs), DISTANCE, batch_size=100)
    bases = build_bases(chain, inputs, config)
    for method in methods:
        graph = build_graph(chain, bases, inputs, method=method)
        needed = all_edges_required(chain, graph, on, tolerance, midpoint="log")
        found = find_modules(graph, [n.threshold for n in needed])
        print(
            f"{name}, {method}: {sum(n.n_edges for n in needed)} edges, {found.described}",
            flush=True,
        )


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = dict(vocab_size=200, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    model = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    tokens = torch.randint(0, 200, (100, 12))
    signs = BasisConfig(sign_positions=1, allow_low_rank=True)
    report("untrained GPT-2", decoder_chain(model), tokens, signs, methods=("lib",))
    model, images = digits_mlp()
    raw = BasisConfig(last="raw")
    report("digits MLP", sequential_chain(model), images, raw)
    for seed in range(2):
        report(
            f"shuffled digits MLP {seed}",
            of_model(model, sequential_chain).shuffled(seed),
            images,
            raw,
        )


def digits_mlp() -> tuple[torch.nn.Sequential, torch.Tensor]:
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
    return model.double().eval(), images[:400].double()


if __name__ == "__main__":
    main()
