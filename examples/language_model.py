"""Decompose a part of a language model: token rows, KL between next-token distributions.

python examples/language_model.py MODEL_FOLDER TEXT.txt 'model.layers.2.self_attn.*' 1000
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

import subscape

folder, text, parameters, steps = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = subscape.text_windows(text, tokenizer, length=16)["input_ids"]
cut = len(ids) * 9 // 10  # windows keep the order of the text: one story at most is on both sides
data, heldout = {"input_ids": ids[:cut]}, {"input_ids": ids[cut:]}

target = subscape.Target(model, parameters)
print(target.summary())
settings = subscape.TrainingConfig(n_subnetworks=100, l0=10, rank=0.1, steps=int(steps))
found = subscape.decompose(
    target, data, heldout=heldout, divergence="kl", rows="sampled-token", config=settings
)
for name in ("fvu", "l0", "dead", "fvu_row_by_row", "l0_row_by_row", "heldout_rows"):
    print(f"{name:<15} {found.metrics[name]:.3f}")

seen = ids[cut : cut + 64]
size = found.encode(target, {"input_ids": seen}).abs()  # a row for every position
for k in size.sum(0).topk(5).indices.tolist():
    print(f"subnetwork {k} is most active at the last token of")
    for row in size[:, k].topk(5).indices.tolist():
        window, position = divmod(row, seen.shape[1])
        print("   ", repr(tokenizer.decode(seen[window, : position + 1])))
