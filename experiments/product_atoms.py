"""Would atoms u ⊗ w of shared factors be better than subnetworks? Judged by planted rules, not by FVU.

    SUBSCAPE_DATA=… python experiments/product_atoms.py --out runs/geometry --write docs/geometry.md

A row's gradient of one matrix is nearly of rank one: the product of what the outputs ask for and of what the
inputs were. So I output factors and J input factors of every matrix make I · J atoms u_i ⊗ w_j for the numbers
of I + J, and a batch top-k over all of them is a far larger dictionary. Atoms are of one matrix each; an atom
becomes a subnetwork by its *ties*: in every other matrix the atom whose codes go with its own most (largest
correlation over training rows), as much of it as a regression on its codes gives.

The rules are those of `geometry.py` (six of rank one in gate, up and down of one MLP block), rows and metric
those of its decompositions of the setting, which are made where --out does not have them. FVU is of held-out
rows; a rule is met by a direction to push at 0.8 of the cosine that labelled gradients reach; AUROC is that of
the best code for a rule's rows; *untied*: the cosine of the atom alone. Beside it the same of the base model,
which has no rules. A set of rules takes about five minutes on one thread, its decompositions not counted.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from geometry import SETTINGS, folder_of, options_of
from geometry_measures import FOUND, LENGTH, MLP, Text, decomposed, plants_of, reachable
from tables import table as markdown
from tables import write_into
from torch import Tensor, nn

from subscape import GradientSource
from subscape._io import read_json, write_json
from subscape.measures.two_sets import aurocs
from subscape.planted import Planted, mixture
from subscape.rows import generator_of

N_TIED, N_HELD = 16_384, 16_384
"""Rows from which ties are made, and rows that are judged."""
RARELY = 1e-4
"""Atoms that are active in fewer rows than this share have no ties."""


class ProductAtoms(nn.Module):
    """Factors of every matrix: codes u' G w, reconstruction Σ a_ij u_i ⊗ w_j, the largest codes of a batch."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], size: int, seed: int) -> None:
        super().__init__()
        generator = generator_of(seed, 0)

        def factors(n: int) -> nn.Parameter:
            drawn = torch.randn(size, n, generator=generator)
            return nn.Parameter(nn.functional.normalize(drawn, dim=1))

        self.shapes, self.size = shapes, size
        self.decoder = nn.ParameterList([factors(n) for s in shapes.values() for n in s])
        self.encoder = nn.ParameterList([nn.Parameter(p.detach().clone()) for p in self.decoder])

    def of_tensors(self, flat: Tensor) -> list[Tensor]:
        """Rows of all tensors as one matrix each."""
        parts = flat.split([s[0] * s[1] for s in self.shapes.values()], dim=1)
        return [p.unflatten(1, s) for p, s in zip(parts, self.shapes.values(), strict=True)]

    def coefficients(self, flat: Tensor) -> Tensor:
        """Of every atom [row, tensor * size * size]."""
        pairs = zip(self.encoder[::2], self.encoder[1::2], self.of_tensors(flat), strict=True)
        return torch.cat([(u @ g @ w.mT).flatten(1) for u, w, g in pairs], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Rows from codes."""
        parts = codes.unflatten(1, (len(self.shapes), self.size, self.size)).unbind(1)
        pairs = zip(self.decoder[::2], self.decoder[1::2], parts, strict=True)
        return torch.cat([(u.mT @ a @ w).flatten(1) for u, w, a in pairs], dim=1)

    def forward(self, flat: Tensor, l0: float) -> tuple[Tensor, Tensor]:
        """Reconstruction, and the codes it is made of: the batch's largest."""
        all_ = self.coefficients(flat)
        sizes = all_.detach().abs().flatten()
        least = sizes.kthvalue(len(sizes) - round(l0 * len(flat))).values
        codes = all_ * (all_.detach().abs() > least)
        return self.decode(codes), codes

    @torch.no_grad()
    def unit(self) -> None:
        """Decoder factors of unit norm: codes have one scale."""
        for factor in self.decoder:
            factor.div_(factor.norm(dim=1, keepdim=True))

    @torch.no_grad()
    def atoms(self, tensor: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Both factors of some atoms of one tensor [atom, m], [atom, n]."""
        within = index % self.size**2
        rows, columns = within // self.size, within % self.size
        return self.decoder[2 * tensor][rows], self.decoder[2 * tensor + 1][columns]


@dataclass(frozen=True)
class Settings:
    """Of the training of atoms."""

    size: int
    l0: float
    steps: int
    batch_size: int = 256
    learning_rate: float = 0.006


def trained(source: GradientSource, settings: Settings, seed: int) -> ProductAtoms:
    """Atoms that reconstruct the rows of a source."""
    atoms = ProductAtoms({n: tuple(s) for n, s in source.shapes.items()}, settings.size, seed)
    adam = torch.optim.Adam(atoms.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, settings.steps)
    for step in range(settings.steps):
        flat = source.gradients(source.rows(step, settings.batch_size)).flat
        rebuilt, _ = atoms(flat, settings.l0)
        loss = (flat - rebuilt).square().sum() / flat.square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        atoms.unit()
    return atoms


def in_parts(source: GradientSource, n: int) -> Any:
    """Gradients of the first rows of a source, some at a time."""
    for part in torch.arange(min(len(source), n // LENGTH)).split(16):
        yield source.gradients(source.rows_of(part)).flat


@torch.no_grad()
def codes_of(
    atoms: ProductAtoms, source: GradientSource, n: int, l0: float
) -> tuple[Tensor, float]:
    """Sparse codes of rows [row, atom] and the FVU."""
    kept, left, whole = [], 0.0, 0.0
    for flat in in_parts(source, n):
        rebuilt, codes = atoms(flat, l0)
        kept.append(codes.to_sparse())
        left += float((flat - rebuilt).square().sum())
        whole += float(flat.square().sum())
    return torch.cat(kept), left / whole


def ties(codes: Tensor, n_tensors: int) -> tuple[Tensor, Tensor, Tensor]:
    """Atoms that are used, of each the atoms that make its subnetwork, and how much of each [atom, tensor]."""
    codes = codes.coalesce()
    count = torch.bincount(codes.indices()[1], minlength=codes.shape[1])
    used = (count >= RARELY * len(codes)).nonzero()[:, 0]
    some = codes.index_select(1, used).to_dense()
    products = some.mT @ some
    own = products.diagonal().clamp_min(1e-30)
    owner = used // (codes.shape[1] // n_tensors)
    correlation = products.abs() / (own[:, None] * own).sqrt()
    partners, shares = [], []
    for tensor in range(n_tensors):
        inside = (owner == tensor).nonzero()[:, 0]
        best = inside[correlation[:, inside].argmax(1)]
        best = torch.where(owner == tensor, torch.arange(len(used)), best)
        partners.append(used[best])
        shares.append(products[torch.arange(len(used)), best] / own)
    return used, torch.stack(partners, 1), torch.stack(shares, 1)


@torch.no_grad()
def cosines(
    atoms: ProductAtoms, partners: Tensor, shares: Tensor, source: GradientSource, rules: Tensor
) -> Tensor:
    """|cos| of every rule with the direction to push of every tied subnetwork [rule, subnetwork]."""
    metric = source.geometry.metric
    names = list(atoms.shapes)
    of_rules = atoms.of_tensors(rules)
    products, squares = rules.new_zeros(len(rules), len(partners)), rules.new_zeros(len(partners))
    for tensor, name in enumerate(names):
        u, w = atoms.atoms(tensor, partners[:, tensor])
        scale = 1.0
        if metric is not None:
            own = metric.tensors[name]
            u, w, scale = own.along(0, u), own.along(1, w), own.scale
        share = shares[:, tensor] * scale
        products = products + share * torch.einsum("rmn,km,kn->rk", of_rules[tensor], u, w)
        squares = squares + share.square() * u.square().sum(1) * w.square().sum(1)
    return (products / squares.sqrt()).abs()


@torch.no_grad()
def spectrum(source: GradientSource, n: int = 1_024) -> list[float]:
    """Share of a row's matrix, squared, in its first singular value: mean of every tensor."""
    flat = torch.cat(list(in_parts(source, n)))
    parts = flat.split([s[0] * s[1] for s in source.shapes.values()], dim=1)
    shares = []
    for part, shape in zip(parts, source.shapes.values(), strict=True):
        values = torch.linalg.svdvals(part.unflatten(1, tuple(shape))).square()
        alive = values.sum(1) > 0
        shares.append(float((values[alive, 0] / values[alive].sum(1)).mean()))
    return shares


def judged(
    model: nn.Module, planted: Planted, result: Any, text: Text, number: int, settings: Settings
) -> dict[str, Any]:
    """All figures of atoms on one model, in the geometry of a decomposition of it."""
    plain, held = (
        mixture(ids, planted.triggers, seed=number) for ids in (text.trained, text.held[:4000])
    )
    source, judge = (result.source(model, rows.ids, as_trained=True) for rows in (plain, held))
    start = time.process_time()
    atoms = trained(source, settings, number)
    seconds = time.process_time() - start
    codes, _ = codes_of(atoms, source, N_TIED, settings.l0)
    used, partners, shares = ties(codes, len(source.shapes))
    theirs = cosines(atoms, partners, shares, source, planted.directions()).amax(1)
    alone = torch.zeros_like(shares)
    alone[torch.arange(len(used)), used // settings.size**2] = 1.0
    single = cosines(atoms, partners, alone, source, planted.directions()).amax(1)
    _, fvu = codes_of(atoms, judge, N_HELD, settings.l0)
    labels = held.labels[: N_HELD // LENGTH].flatten()
    positive = torch.stack([labels == rule for rule in range(len(planted.triggers))], dim=1)
    sizes = torch.cat([
        atoms.coefficients(flat)[:, used].detach().abs() for flat in in_parts(judge, N_HELD)
    ])
    best = torch.stack([aurocs(part, positive).amax(1) for part in sizes.split(256, dim=1)]).amax(0)
    return {
        "fvu": fvu,
        "scalars": settings.l0,
        "atoms": len(used),
        "cosines": theirs.tolist(),
        "cosines_untied": single.tolist(),
        "aurocs": best.tolist(),
        "seconds": seconds,
        "first_singular_value": spectrum(judge),
    }


def record(
    out: Path, name: str, steps: int, number: int, text: Text, settings: Settings
) -> dict[str, Any]:
    """Atoms and subnetworks of one set of rules, from the file if it is there."""
    file = out / "product-atoms" / f"{name}-{number}-{settings.size}-{settings.l0:g}.json"
    if file.exists():
        return read_json(file)
    planted = plants_of(out, text, number)
    plain, held = (
        mixture(ids, planted.triggers, seed=number) for ids in (text.trained, text.held[:4000])
    )
    options = options_of(name, steps) | {"parameters": MLP}
    reach = reachable(planted, held)
    found: dict[str, Any] = {"reach": reach.tolist()}
    for which, model in (("planted", planted.model), ("base", text.model)):
        folder = folder_of(out, name, steps) / f"{which}-{number}-0"
        result, _ = decomposed(folder, model, plain.ids, held.ids, 0, options)
        found[which] = judged(model, planted, result, text, number, settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--setting", choices=SETTINGS, default="whitened-long")
    parser.add_argument("--plants", type=int, default=3, help="sets of rules")
    parser.add_argument("--size", type=int, default=64, help="factors on either side")
    parser.add_argument("--l0", type=float, nargs="+", default=[15.0, 30.0], help="atoms of a row")
    parser.add_argument("--steps", type=int, default=400, help="of atoms, and of short settings")
    parser.add_argument("--write", type=Path, help="page to put the table into")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = Text.load()
    lines = []
    for l0 in arguments.l0:
        settings = Settings(arguments.size, l0, arguments.steps)
        records = []
        for number in range(arguments.plants):
            records.append(
                record(arguments.out, arguments.setting, arguments.steps, number, text, settings)
            )
        lines += [row(f"atoms, {which}", which, records) for which in ("planted", "base")]
    head = ["dictionary", "active scalars", "atoms used", "FVU", "met", "cosine", "untied", "AUROC"]
    print(markdown(head, lines))
    if arguments.write:
        write_into(arguments.write, "product-atoms", markdown(head, lines))


def row(what: str, which: str, records: list[dict[str, Any]]) -> list[str]:
    """A line of the table: means over sets of rules."""
    own = [r[which] for r in records]
    met = [
        sum(c >= FOUND * top for c, top in zip(r[which]["cosines"], r["reach"], strict=True))
        for r in records
    ]
    return [
        what,
        f"{own[0]['scalars']:g}",
        f"{mean(o['atoms'] for o in own):,.0f}",
        f"{mean(o['fvu'] for o in own):.2f}",
        f"{mean(met):.1f} of 6",
        f"{mean(mean(o['cosines']) for o in own):.2f}",
        f"{mean(mean(o['cosines_untied']) for o in own):.2f}",
        f"{mean(mean(o['aurocs']) for o in own):.3f}",
    ]


if __name__ == "__main__":
    main()
