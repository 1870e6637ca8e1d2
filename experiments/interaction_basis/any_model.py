"""Chains of all kinds of models by names of modules, and how far their outputs are from the models'.

Real ones where `SUBSCAPE_DATA` names the folder of real data, else random weights of the same architecture.

    python experiments/interaction_basis/any_model.py
"""

import json
import sys
import time
from pathlib import Path

import torch
import transformers
from torch import nn

from subscape.interaction_basis import chain_from
from subscape.interaction_basis.cuts import main_output

sys.path.append(str(Path(__file__).parents[1]))
import resnet20

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
    for name, (model, cuts, inputs) in cases.items():
        start = time.time()
        chain = chain_from(model.eval(), cuts, inputs)
        with torch.no_grad():
            wanted = main_output(model, inputs)
            off = float((chain.outputs(inputs) - wanted).abs().max() / wanted.abs().max())
            widths = [n.shape[1:] for n in chain.nodes(inputs[:1])]
        row = {"difference": off, "nodes": [list(w) for w in widths]}
        print(name, json.dumps(row | {"seconds": round(time.time() - start, 1)}), flush=True)


if __name__ == "__main__":
    main()
