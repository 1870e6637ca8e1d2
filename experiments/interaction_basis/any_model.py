"""Chains of all kinds of models by names of modules: lines of user code, and how far outputs are from the models'.

The line is printed and run as it stands, given `model` and `inputs`. Real weights where `SUBSCAPE_DATA` names the
folder of real data, else random ones of the same architecture, all in float32.

    python experiments/interaction_basis/any_model.py --write docs/interaction-basis.md
"""

import argparse
import sys
from pathlib import Path

import torch
import transformers
from torch import nn

from subscape.interaction_basis.cuts import main_output

sys.path.append(str(Path(__file__).parents[1]))
import resnet20
import tables

CODE = """\
from subscape.interaction_basis import chain_from
chain = chain_from(model, {cuts}, inputs)
"""
LARGEST = 1e-5
"""Difference from the model, as a share of its largest output."""

SIZES = dict(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3)
SIZES |= dict(num_attention_heads=4, bos_token_id=0, eos_token_id=0)
GPT2 = dict(n_embd=32, n_layer=3, n_head=4, n_positions=64)
LOCAL = dict(
    num_hidden_layers=4, num_heads=4, attention_types=[[["global", "local"], 2]], window_size=8
)


class Own(nn.Module):
    """An MLP with a functional activation and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(20, 30), nn.Linear(30, 30), nn.Linear(30, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.one(x).relu()
        return self.three(self.two(hidden).relu() + hidden)


def digits() -> nn.Module:
    convolutions = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2)
    return nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def language(name: str, **sizes: object) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(**SIZES | sizes)
    kind = transformers.AutoModel if name == "Bert" else transformers.AutoModelForCausalLM
    return kind.from_config(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="page to put the table into")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    tokens = torch.randint(0, 97, (32, 24))
    blocks = "transformer.h.0.attn", "transformer.h.0", "transformer.h.2"
    inside = "self_attn", "", ""
    layers = tuple(
        f"model.layers.{n}.{m}".rstrip(".") for n, m in zip((0, 0, 2), inside, strict=True)
    )
    neox = tuple(n.replace("model", "gpt_neox").replace("self_attn", "attention") for n in layers)
    bert = "encoder.layer.0.intermediate", "encoder.layer.0", "encoder.layer.2"
    cases = {
        "own MLP": (Own(), ("input", "one", "two", "output"), torch.randn(64, 20)),
        "digits CNN": (digits(), ("input", "1", "3", "output"), torch.randn(64, 1, 8, 8)),
        "GPT-2": (language("GPT2", **GPT2), blocks, tokens),
        "GPT-Neo": (language("GPTNeo", **LOCAL), blocks, tokens),
        "GPT-NeoX": (language("GPTNeoX"), neox, tokens),
        "Gemma-2": (language("Gemma2", head_dim=8, num_key_value_heads=2), layers, tokens),
        "OLMo": (language("Olmo"), layers, tokens),
        "Llama": (language("Llama"), layers, tokens),
        "BERT": (language("Bert"), bert, tokens),
    }
    try:
        stages = ("layer1.0.conv1", "layer1.2", "layer2.2", "layer3.2", "output")
        cases["ResNet-20"] = (resnet20.model(), stages, resnet20.images()[:64])
    except (KeyError, OSError, SystemExit):
        print("ResNet-20: no SUBSCAPE_DATA")
    lines = []
    for name, (model, cuts, inputs) in cases.items():
        names = {"model": model.eval(), "inputs": inputs}
        code = CODE.format(cuts=list(cuts))
        exec(code, names)
        chain = names["chain"]
        with torch.no_grad():
            wanted = main_output(model, inputs)
            off = float((chain.outputs(inputs) - wanted).abs().max() / wanted.abs().max())
            widths = [str(n.shape[-1]) for n in chain.nodes(inputs[:1])]
        n_lines = len(code.splitlines())
        line = [name, f"`{', '.join(cuts)}`", ", ".join(widths), str(n_lines), f"{off:.0e}"]
        print(*line, sep="; ", flush=True)
        if off > LARGEST:
            raise SystemExit(f"{name}: outputs differ by {off:.2g} of the largest")
        lines.append(line)
    head = ["network", "cut behind", "widths", "lines of code", "difference"]
    text = tables.table(head, lines)
    if arguments.write:
        tables.write_into(arguments.write, "agreement", text)


if __name__ == "__main__":
    main()
