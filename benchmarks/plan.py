"""What a step takes of a model of a given size on many processes: on paper, and checked against a small one.

Floating-point operations (two a multiplication), bytes summed over processes, and memory, of one process. The
first line has the paper's figures of a small model beside those counted in a step of it, as one of eight processes
whose sums go nowhere; the others are on paper only.

    python benchmarks/plan.py [--write docs/many-processes.md]
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from _lib.memory import GIB
from ranks import counted
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

from subscape import GradientSource, Target
from subscape._ranks import current
from subscape.gradients.contraction import through_factors
from subscape.lowrank import Layout, make_layout
from subscape.lowrank.tensor import composing_cost
from subscape.training import Trainer, TrainingConfig

BEGIN, END = "<!-- plan -->", "<!-- /plan -->"


@dataclass(frozen=True)
class Size:
    """A Llama, the attention of its middle layer, and what a process has of it."""

    name: str
    width: int
    layers: int
    inner: int
    keys: int
    """Width of keys and of values."""
    vocabulary: int
    model_entry: int
    """Bytes of a weight of the model."""
    processes: int
    rows: int
    """Of a process; every position is a row."""
    length: int = 32
    subnetworks: int = 1000
    rank: int = 16

    @property
    def of_layer(self) -> int:
        return 2 * self.width * (self.width + self.keys) + 3 * self.width * self.inner

    @property
    def layout(self) -> Layout:
        d, kv = self.width, self.keys
        return make_layout({"q": (d, d), "k": (kv, d), "v": (kv, d), "o": (d, d)}, self.rank)

    def operations(self) -> dict[str, float]:
        """Of a step."""
        d, length, k, rows = self.width, self.length, self.subnetworks, self.rows
        head = 2 * self.vocabulary * d
        forward = rows * (self.layers * (2 * self.of_layer + 4 * length * d) + head)
        # A backward pass for every row, over all positions, down to the queries; the head has one position.
        above = self.layers - self.layers // 2 - 1
        down = above * (2 * self.of_layer + 8 * length * d)
        down += 2 * 3 * d * self.inner + 2 * d * d + 8 * length * d
        # Of a causal model's row the positions after it are zero and left out.
        terms = rows * (length + 1) // 2
        contraction = gram = 0.0
        for tensor in self.layout.tensors:
            m, n = tensor.shape
            if through_factors(tensor, 2 * k, rows, terms, 4):
                contraction += 2 * 2 * terms * 2 * k * self.rank * (m + n)
            else:
                products = 2 * rows * 2 * k * m * n + 2 * composing_cost(tensor, 2 * k)
                contraction += 2 * terms * m * n + 2 * products
            thin = (k * self.rank) ** 2 * (m + n) < k * (k + self.rank) * m * n
            gram += 4 * ((k * self.rank) ** 2 * (m + n) if thin else k * k * m * n)
        return {
            "forward": forward,
            "backward": rows * (head + length * down),
            "contraction": contraction,
            "gram": gram,
            "error": 2 * 3 * rows * self.processes * k * k,
        }

    def summed(self) -> int:
        """Bytes that go through a sum over processes in a step."""
        k, all_rows = self.subnetworks, self.rows * self.processes
        return 4 * (2 * k * self.layout.size + all_rows * (2 * k + 1))

    def memory(self) -> dict[str, int]:
        """Bytes of what does not depend on how rows are cut into parts."""
        weights = self.layers * self.of_layer + 2 * self.vocabulary * self.width
        all_rows = self.rows * self.processes
        return {
            "model": weights * self.model_entry,
            "subnetworks": 8 * self.subnetworks * self.layout.size * 4,
            "numbers of all rows": 4 * 2 * self.subnetworks * all_rows * 4,
        }


SMALL = Size("small", 128, 4, 256, 64, 512, 4, 8, 128, 16, 40, 4)
SIZES = (
    Size("1B", 2048, 16, 8192, 512, 128_256, 2, 8, 512),
    Size("70B", 8192, 80, 28_672, 1024, 128_256, 2, 64, 256),
)


def counted_of(size: Size) -> dict[str, float]:
    """Operations and bytes of a real step."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        intermediate_size=size.inner,
        num_attention_heads=8,
        num_key_value_heads=8 * size.keys // size.width,
        vocab_size=size.vocabulary,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager").eval()
    batch = size.rows * size.processes
    data = {"input_ids": torch.randint(0, size.vocabulary, (batch // size.length, size.length))}
    target = Target(model, f"model.layers.{size.layers // 2}.self_attn")
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=size.processes)
    source = GradientSource(
        target, data, divergence="kl", reference="uniform", rows="token", ranks=current()
    )
    settings = TrainingConfig(
        n_subnetworks=size.subnetworks, rank=size.rank, batch_size=batch, dense_warmup=0.0
    )
    trainer = Trainer([source], settings)
    trainer.step()
    moved = counted()
    with FlopCounterMode(display=False) as operations:
        trainer.step()
    held = [p for p in trainer.dictionary.parameters()]
    held += [p.grad for p in held if p.grad is not None]
    held += [v for s in trainer.optimiser.state.values() for v in s.values() if v.dim()]
    return {
        "operations": operations.get_total_flops(),
        "summed": sum(moved),
        "subnetworks": sum(v.numel() * v.element_size() for v in held),
    }


def table(lines: list[dict[str, object]]) -> str:
    """As Markdown, a column for every size."""
    names = [name for name in lines[0] if name != "benchmark"]
    rows = [[name, *(str(line[name]) for line in lines)] for name in names]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="a page between whose marks the table goes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    real, paper = counted_of(SMALL), SMALL
    check = {
        "benchmark": "plan",
        "size": paper.name,
        "operations": [real["operations"], int(sum(paper.operations().values()))],
        "summed": [real["summed"], paper.summed()],
        "subnetworks": [real["subnetworks"], paper.memory()["subnetworks"]],
    }
    print(json.dumps(check), flush=True)
    lines = []
    for size in SIZES:
        operations = {k: f"{v / 1e12:.1f}" for k, v in size.operations().items()}
        memory = {f"{k}, GiB": f"{v / GIB:.1f}" for k, v in size.memory().items()}
        lines.append(
            {"benchmark": "plan", "size": size.name, "processes": size.processes}
            | {"rows of a process": size.rows, "rows in all": size.rows * size.processes}
            | {f"{k}, 10¹² operations": v for k, v in operations.items()}
            | {"summed over processes, GiB": f"{size.summed() / GIB:.2f}"}
            | memory
        )
        print(json.dumps(lines[-1], ensure_ascii=False), flush=True)
    if given.write:
        before, rest = given.write.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        text = f"{before}{BEGIN}\n{table(lines)}\n{END}{after}"
        given.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
