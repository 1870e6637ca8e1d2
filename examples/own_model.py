"""Train a small classifier of digits and decompose it: which subnetwork serves which digit?

pip install scikit-learn; python examples/own_model.py
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import subscape
from subscape.measures import pca_fvu

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
torch.set_num_threads(1)  # more threads only wait for each other on tensors this small
pixels, digits = load_digits(return_X_y=True)
images, labels = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(digits)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(300):
    optimiser.zero_grad()
    nn.functional.cross_entropy(model(images[:1400]), labels[:1400]).backward()
    optimiser.step()

target, heldout = subscape.Target(model.eval(), "*.weight"), images[1400:]
settings = subscape.TrainingConfig(n_subnetworks=20, l0=2, rank=2, steps=steps)
found = subscape.decompose(target, images[:1400], heldout=heldout, divergence="kl", config=settings)
print(f"FVU {found.metrics['fvu']:.3f} at L0 {found.metrics['l0']:.2f} on held-out rows")

source = found.source(target, heldout)
gradients = source.gradients(source.rows_of(torch.arange(len(source))))
print(f"FVU {pca_fvu(gradients.flat, 20, found.metrics['l0']):.3f} for PCA with the best codes")
size = found.encode(target, heldout).abs()
for k in range(len(found)):
    by_digit = torch.stack([size[labels[1400:] == digit, k].mean() for digit in range(10)])
    print(f"subnetwork {k:2} is most active on digits", by_digit.topk(3).indices.tolist())
