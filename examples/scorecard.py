"""Hold a decomposition to its controls: a classifier of scikit-learn's digits, two seeds, one scorecard.

python examples/scorecard.py [STEPS]     (about a minute of processor time)
"""

import sys

import torch

import subscape
from subscape.demo.digits import N_HELDOUT, train_classifier
from subscape.reproduce.digits import load_digits

torch.set_num_threads(1)
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000

images, labels = load_digits()
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
images, labels = images.view(-1, 1, 8, 8)[order], labels[order]
train, heldout = images[N_HELDOUT:], images[:N_HELDOUT]
model = train_classifier(train, labels[N_HELDOUT:], seed=0)

found, again = (
    subscape.decompose(
        model,
        train,
        heldout=heldout,
        divergence="kl",
        n_subnetworks=20,
        rank=0.5,
        l0=2,
        steps=steps,
        batch_size=128,
        seed=seed,
    )
    for seed in (0, 1)
)
card = subscape.score(
    found,
    model,
    heldout,
    fit=train,
    labels=labels[:N_HELDOUT],
    fit_labels=labels[N_HELDOUT:],
    against={"seed 1": again},
    out="runs/digits/scorecard",
    overwrite=True,
)
print(card)
