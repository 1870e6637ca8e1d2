"""Decompose a network whose circuits are known, and compare with them.

python examples/toy_recovery.py
"""

import sys

import torch

import subscape
from subscape.measures.oracle import oracle
from subscape.measures.recovery import recovery
from subscape.toys import tms, true_subnetworks

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
torch.set_num_threads(1)  # more threads only wait for each other on tensors this small
toy = tms(seed=0)  # five sparse features through two hidden units; one circuit per feature
generator = torch.Generator().manual_seed(0)
inputs, fresh = toy.sample(4000, generator), toy.sample(1000, generator)

found = subscape.decompose(
    toy.model, inputs, heldout=fresh, n_subnetworks=5, rank=1, n_restarts=4, steps=steps
)
print(f"FVU {found.metrics['fvu']:.3f} at L0 {found.metrics['l0']:.2f} on rows not trained on")

# Measured as the decomposition measures: in its metric, against its reference.
truth = true_subnetworks(toy, geometry=found.geometry, reference=found.reference)
source = found.source(toy.model, fresh, seed=1)
gradients = source.gradients(source.rows(0, len(source)))
best = oracle(gradients.flat, truth.directions, found.metrics["l0"])
print(f"FVU {best.fvu:.3f} with the true circuits and the best codes at that L0 (oracle)")

compared = recovery(found.decoder.flat(), truth.directions)
print(f"{compared.n_matched} of {compared.n_truths} circuits found")
for feature, (k, cosine) in enumerate(zip(compared.index, compared.cosine, strict=True)):
    print(f"  feature {feature}: subnetwork {int(k)}, |cosine| {cosine:.3f}")
