"""Transfer: do two architectures that were trained on the same data have the same subnetworks?

    SUBSCAPE_DATA=… python experiments/transfer.py --out runs/transfer --write docs/transfer.md

Two pairs of models. stories260k (Llama's architecture) and a model of GPT-2's, trained here on the same text in
the same tokens, both with the same six rules planted in the MLP of a middle layer, which is decomposed. And two
classifiers of digits, a perceptron and a convolutional network, decomposed whole. Subnetworks of two models are
matched one to one by their codes on the same rows, which were not trained on.

Beside every pair of architectures: the same model decomposed from another seed, which is the most one can ask for;
the rows of one model shuffled; random directions of the same norms and ranks. Rules: of how many of six do both
models have a subnetwork that tells the rule's rows (AUROC of at least .99), and of how many is it, matched, the
same one? About 10 minutes on one core. Expected: architectures share more than chance, less than seeds do.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from geometry_measures import LENGTH, Text, coefficients
from page import Record, draw, kept, main
from torch import Tensor, nn

import subscape
from subscape import Decomposition
from subscape._io import read_tensors, write_tensors
from subscape.data import Samples
from subscape.measures import auroc
from subscape.measures.recovery import match
from subscape.planted import mixture, plant
from subscape.reproduce.digits import load_digits
from subscape.rows import generator_of
from subscape.scorecard.chance import chance_of
from subscape.scorecard.stability import correlations
from subscape.subnetworks.editing import edited_copy

LANGUAGE = {"llama": "model.layers.3.mlp", "gpt2": "transformer.h.3.mlp"}
TOLD, N_WINDOWS, WINDOWS_OF_A_STEP, IMAGES_OF_A_STEP = 0.99, 600, 64, 64
LEVELS = (70, 50)
"""In hundredths."""


# Models


def language_model(text: Text, steps: int) -> nn.Module:
    """GPT-2's architecture at the size of stories260k, trained on the same windows."""
    size = int(text.model.config.vocab_size)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    config = transformers.GPT2Config(
        vocab_size=size,
        n_positions=LENGTH,
        n_embd=64,
        n_layer=5,
        n_head=8,
        n_inner=172,
        tie_word_embeddings=True,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config)

    def loss(picked: Tensor) -> Tensor:
        ids = text.trained[picked]
        logits = model(input_ids=ids).logits[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return trained(model, loss, len(text.trained), steps, WINDOWS_OF_A_STEP)


def trained(
    model: nn.Module, loss: Callable[[Tensor], Tensor], n: int, steps: int, size: int
) -> nn.Module:
    """Adam on batches drawn by a seed."""
    generator = generator_of(0, 120)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(torch.randint(0, n, (size,), generator=generator)).backward()
        optimiser.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


# Codes


class Run:
    """One decomposition, with its codes on the rows that all are compared on."""

    def __init__(
        self, folder: Path, model: nn.Module, data: Samples, held: Samples, **options: Any
    ) -> None:
        self.model, self.held = model, held
        if not (folder / "config.json").exists():
            result = subscape.decompose(
                model, data, heldout=held, divergence="kl", progress=False, **options
            )
            result.save_pretrained(folder, overwrite=True)
        self.result = Decomposition.from_pretrained(folder)
        self.codes = self.codes_of(self.result)

    def codes_of(self, result: Decomposition) -> Tensor:
        source = result.source(self.model, self.held)
        return coefficients(result, source, torch.arange(min(N_WINDOWS, len(source))))[1]

    def at_random(self) -> Tensor:
        return self.codes_of(chance_of(self.result))


def matched(ours: Tensor, theirs: Tensor) -> tuple[list[float], Tensor]:
    """|Correlation| of every code with that of its match, and which that is."""
    correlation = correlations(ours, theirs)
    pairs = match(correlation)
    return correlation[pairs].tolist(), torch.stack([torch.as_tensor(p) for p in pairs])


def compared(models: str, beside: str, ours: Tensor, theirs: Tensor) -> Record:
    values, _ = matched(ours, theirs)
    shares = {f"at_{n}": sum(100 * v >= n for v in values) / len(values) for n in LEVELS}
    return {
        "models": models,
        "beside": beside,
        "mean": sum(values) / len(values),
        **shares,
        "rules": "",
        "values": sorted(values, reverse=True),
    }


def four(models: str, first: Run, again: Run, other: Run) -> list[Record]:
    """Another architecture, and what it is to be read beside."""
    order = torch.randperm(len(first.codes), generator=generator_of(0, 121))
    return [
        compared(models, "the other architecture", first.codes, other.codes),
        compared(models, "the same model, another seed", first.codes, again.codes),
        compared(models, "the other, rows shuffled", first.codes, other.codes[order]),
        compared(models, "random directions in the other", first.codes, other.at_random()),
    ]


def rules(first: Run, other: Run, labels: Tensor, n_rules: int) -> str:
    """Rules that both have a subnetwork for, and those for which it is each other's match."""

    def best(codes: Tensor) -> list[tuple[float, int]]:
        sizes = codes.abs().mT
        of_rules = (labels == rule for rule in range(n_rules))
        return [max((auroc(s[at], s[~at][::4]), k) for k, s in enumerate(sizes)) for at in of_rules]

    ours, theirs = best(first.codes), best(other.codes)
    both = [(a[1], b[1]) for a, b in zip(ours, theirs, strict=True) if min(a[0], b[0]) >= TOLD]
    pairs = {tuple(p) for p in matched(first.codes, other.codes)[1].mT.tolist()}
    return f"{sum(pair in pairs for pair in both)} of {len(both)}"


# The two pairs


def with_rules(
    file: Path, model: nn.Module, ids: Tensor, tensors: str, steps: int
) -> tuple[nn.Module, Tensor]:
    """The model with six rules planted, and their triggers, which the text alone decides."""
    if not file.exists():
        made = plant(model, ids, f"{tensors}.*weight", steps=steps)
        changes = {f"changes.{name}": change.sum(0) for name, change in made.changes.items()}
        write_tensors(file, changes | {"triggers": made.triggers})
    tensors_ = read_tensors(file)
    triggers = tensors_.pop("triggers")
    changes = {name.removeprefix("changes."): change for name, change in tensors_.items()}
    return edited_copy(model, changes), triggers


def languages(
    out: Path, language_steps: int, plant_steps: int, options: dict[str, Any]
) -> list[Record]:
    text = Text.load()
    file = out / f"gpt2-{language_steps}.safetensors"
    if file.exists():
        other = language_model(text, 0)
        other.load_state_dict(read_tensors(file), strict=False)
    else:
        other = language_model(text, language_steps)
        write_tensors(file, {n: p.detach().contiguous() for n, p in other.named_parameters()})
    planted = {
        name: with_rules(
            out / f"{name}-{language_steps}-{plant_steps}.safetensors",
            model,
            text.trained,
            LANGUAGE[name],
            plant_steps,
        )
        for name, model in (("llama", text.model), ("gpt2", other))
    }
    triggers = planted["llama"][1]
    assert triggers.equal(planted["gpt2"][1]), "the rules depend on the text alone"
    data, held = (mixture(ids, triggers) for ids in (text.trained, text.held[:4000]))
    first, again, theirs = (
        Run(
            out / f"{name}-{language_steps}-{plant_steps}-{seed}-{options['steps']}",
            planted[name][0],
            data.ids,
            held.ids,
            rows="token",
            parameters=LANGUAGE[name],
            seed=seed,
            **options,
        )
        for name, seed in (("llama", 0), ("llama", 10), ("gpt2", 0))
    )
    records = four("stories260k and a GPT-2", first, again, theirs)
    labels = held.labels[:N_WINDOWS].flatten()
    for record, run in zip(records, (theirs, again), strict=False):
        record["rules"] = rules(first, run, labels, len(triggers))
    return records


def digits(out: Path, digit_steps: int, options: dict[str, Any]) -> list[Record]:
    images, labels = load_digits()
    order = torch.randperm(len(images), generator=generator_of(0, 122))
    fit, held = order.split([len(images) * 4 // 5, len(images) - len(images) * 4 // 5])
    runs = []
    for name, make in (("perceptron", perceptron), ("convolutional", convolutional)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = make()

        def loss(picked: Tensor, model: nn.Module = model) -> Tensor:
            return nn.functional.cross_entropy(model(images[fit][picked]), labels[fit][picked])

        model = trained(model, loss, len(fit), digit_steps, IMAGES_OF_A_STEP)
        for seed in (0, 10) if name == "perceptron" else (0,):
            path = out / f"{name}-{digit_steps}-{seed}-{options['steps']}"
            own = options | {"n_subnetworks": min(20, options["n_subnetworks"])}
            runs.append(Run(path, model, images[fit], images[held], seed=seed, **own))
    return four("digits: perceptron and convolutional network", *runs)


def measure(
    out: Path,
    *,
    steps: int = 600,
    n_subnetworks: int = 100,
    language_steps: int = 3_000,
    plant_steps: int = 400,
    digit_steps: int = 600,
) -> list[Record]:
    options = {"steps": steps, "n_subnetworks": n_subnetworks}
    file = (
        out / f"records-{steps}-{n_subnetworks}-{language_steps}-{plant_steps}-{digit_steps}.json"
    )
    return kept(
        file,
        lambda: (
            languages(out, language_steps, plant_steps, options) + digits(out, digit_steps, options)
        ),
    )


COLUMNS = {
    "models": "{models}",
    "beside": "{beside}",
    "mean correlation": "{mean:.2f}",
    "at least .7": "{at_70:.0%}",
    "at least .5": "{at_50:.0%}",
    "rules matched, of those told": "{rules}",
}


def picture(path: Path, records: list[Record]) -> None:
    lines = {
        f"{r['models'].split(':')[0].split(' ')[0]}: {r['beside']}": (
            [i / len(r["values"]) for i in range(len(r["values"]))],
            r["values"],
        )
        for r in records
    }
    draw(path, lines, x="share of the subnetworks", y="|correlation| with the match", joined=True)


if __name__ == "__main__":
    main("transfer", __doc__, measure, COLUMNS, picture)
