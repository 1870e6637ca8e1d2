"""One HTML page on which an interaction graph can be explored, without a network connection.

Everything is inside the file: the graph as JSON, the style and a script that draws it. Above the graph stands
what was scored and how many edges each section needs, below it the modules and whether they are more than
chance.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from subscape.interaction_basis.causal import Effect
from subscape.interaction_basis.graph import InteractionGraph
from subscape.interaction_basis.modules import Modules, log_weights
from subscape.interaction_basis.pictures import METHODS, colour_of, shown_directions

N_UNNEEDED = 10
"""Strongest edges drawn, dashed, of a section that needs none."""
N_SUBNETWORKS = 40
"""Listed beside modules, those of the largest shares."""
Cell = str | dict[str, str]


def graph_page(
    graph: InteractionGraph,
    modules: Modules,
    thresholds: Sequence[float],
    *,
    title: str = "Interaction graph",
    labels: Mapping[tuple[int, int], str] | None = None,
    most: int = 60,
    ablation: Mapping[str, Any] | None = None,
    effects: Sequence[Effect] = (),
    responses: Mapping[str, Any] | None = None,
    bridge: Mapping[str, Any] | None = None,
) -> str:
    """The HTML; title and labels are escaped.

    Args:
        graph: bases and edges.
        modules: of the graph.
        thresholds: the smallest required edge of every section that is drawn.
        title: of the page.
        labels: text by (layer, direction).
        most: directions of a layer that are drawn, the most important ones.
        ablation: what is in ablation.json: score, tolerance and edges required by method.
        effects: what modules do.
        responses: what directions respond to.
        bridge: what is in bridge.json: through which modules subnetworks act.
    """
    shown = shown_directions(graph, thresholds, most)
    links, n_needed = _links(graph, thresholds, shown)
    n_drawn = sum(link[-1] for link in links)
    data = {
        "layers": _layers(graph, modules, shown, labels or {}),
        "edges": links,
        "modules": modules.described,
        "verdict": _verdict(ablation),
        "required": _required(ablation),
        "left_out": _left_out(n_drawn, n_needed, max(shown, default=0)),
        "chance": _chance(modules),
        "list": _list(graph, modules, effects, ablation),
        "responses": responses or {},
        "bridge": _bridge(bridge),
        "bridge_said": _bridge_said(bridge),
    }
    template = resources.files("subscape.interaction_basis").joinpath("page.html")
    text = template.read_text(encoding="utf-8")
    filled = {"{{title}}": html.escape(title), "{{data}}": _script_json(data)}
    # In one go, as a title may hold the name of a gap.
    return re.sub("|".join(filled), lambda gap: filled[gap[0]], text)


def _layers(
    graph: InteractionGraph,
    modules: Modules,
    shown: Sequence[int],
    labels: Mapping[tuple[int, int], str],
) -> list[dict[str, Any]]:
    member = modules.of()
    layers = []
    for layer, (basis, n) in enumerate(zip(graph.bases, shown, strict=False)):
        directions = [
            {
                "importance": importance,
                "label": labels.get((layer, number), ""),
                "module": member.get((layer, number)),
                "colour": colour_of(member.get((layer, number))),
            }
            for number, importance in enumerate(basis.importance[:n].tolist())
        ]
        layers.append({"name": basis.name, "rank": basis.rank, "directions": directions})
    return layers


def _links(
    graph: InteractionGraph, thresholds: Sequence[float], shown: Sequence[int]
) -> tuple[list[list[Any]], int]:
    """Edges as [layer, from, to, weight, strength, whether it is required], and how many are, drawn or not."""
    links: list[list[Any]] = []
    n_needed = 0
    for layer, (edges, threshold) in enumerate(zip(graph.edges, thresholds, strict=False)):
        needed = int((edges >= threshold).sum())
        n_needed += needed
        part = edges[: shown[layer + 1], : shown[layer]]
        # The weakest edge that is required has the weight 0.
        drawn = part >= threshold
        if not needed and part.numel():
            # A section that needs none is not left empty.
            least = part.flatten().topk(min(N_UNNEEDED, part.numel())).values[-1]
            drawn = (part >= least) & (part > 0)
        weights = log_weights(part, threshold)
        for to, come_from in drawn.nonzero().tolist():
            weight, strength = float(weights[to, come_from]), float(part[to, come_from])
            links.append([layer, come_from, to, round(weight, 4), strength, needed > 0])
    return links, n_needed


def _verdict(ablation: Mapping[str, Any] | None) -> str:
    if ablation is None:
        return ""
    return (
        f"Scored by {ablation['score']}, {ablation['base']:.5g} for the whole network. Edges required are the "
        "fewest of a section, the largest first, with which the score stays within "
        f"{ablation['tolerance']:g} of that."
    )


def _required(ablation: Mapping[str, Any] | None) -> list[list[str]]:
    """A table: sections down, methods across, and the totals."""
    if ablation is None:
        return []
    methods = [m for m in METHODS if m in ablation]
    counts = {m: [s["n_edges"] for s in ablation[m]["sections"]] for m in methods}
    names = ablation["names"]
    lines = [["edges required", *(METHODS[m][0] for m in methods)]]
    for number, (a, b) in enumerate(zip(names, names[1:], strict=False)):
        lines.append([f"{a} → {b}", *(str(counts[m][number]) for m in methods)])
    return [*lines, ["all sections", *(str(sum(counts[m])) for m in methods)]]


def _left_out(n_drawn: int, n_needed: int, most: int) -> str:
    if n_needed == 0:
        return (
            "No edge is required within the tolerance: the score hardly depends on these directions. Dashed edges "
            "are the strongest all the same; a smaller tolerance requires more."
        )
    if n_drawn == n_needed:
        return f"All {n_needed} required edges are drawn."
    return (
        f"{n_drawn} of {n_needed} required edges are drawn; the others are of directions beyond the {most} most "
        "important of a layer."
    )


def _chance(modules: Modules) -> str:
    if not modules.modules:
        return "No modules: no two directions are linked by a required edge that is stronger than the weakest."
    text = f"{modules.described}. "
    if modules.swaps is not None:
        found = modules.swaps
        text += (
            f"{found.n_graphs} graphs with the same degrees and their edges swapped have "
            f"Q = {found.mean:.3f} ± {found.deviation:.3f}. "
        )
    if modules.randomised is not None:
        found = modules.randomised
        text += (
            f"Q exceeds that by {found.modularity:.3f}; of {found.n_graphs} copies of the network with shuffled "
            f"weights by {found.mean:.3f} ± {found.deviation:.3f}. "
        )
    elif modules.swaps is not None and modules.beyond:
        text += (
            "Not compared with shuffled weights (subscape basis modules RUN --shuffled 8), which alone tell what "
            "training made from what the architecture gives. "
        )
    return text + (
        f"{modules.share_at_best:.0%} of {modules.n_starts} searches end at this Q. Stability is the overlap of a "
        "module with its likeness in the other searches, 1 where all agree."
    )


def _list(
    graph: InteractionGraph,
    modules: Modules,
    effects: Sequence[Effect],
    ablation: Mapping[str, Any] | None,
) -> list[list[Cell]]:
    if not modules.modules:
        return []
    lines: list[list[Cell]] = [["module", "directions", "stability"]]
    if effects and ablation is not None:
        lines[0] += [
            f"{ablation['score']} without it (random)",
            "with it alone (random; worst others)",
        ]
    for number, module in enumerate(modules.modules):
        where = ", ".join(
            f"{n} in {name}"
            for layer, name in enumerate(graph.names)
            if (n := len(module.directions(layer)))
        )
        name: Cell = {"text": str(number + 1), "colour": colour_of(number)}
        line: list[Cell] = [name, where, f"{module.stability:.2f}"]
        if effects and ablation is not None:
            mine = [e for e in effects if e.module == number]
            named = [(graph.names[e.layer], e) for e in mine]
            line.append(
                "; ".join(
                    f"{n}: {e.without:.3f} ({_middle(e.random_without):.3f})" for n, e in named
                )
            )
            line.append(
                "; ".join(
                    f"{n}: {e.alone:.3f} ({_middle(e.random_alone):.3f}; {e.alone_worst:.3f})"
                    for n, e in named
                )
            )
        lines.append(line)
    return lines


def _bridge_said(bridge: Mapping[str, Any] | None) -> str:
    if bridge is None:
        return ""
    means = ", ".join(f"{kind} {value:.0%}" for kind, value in bridge["mean_largest"].items())
    return (
        "Subnetworks through modules: where a push along a subnetwork moves the activations, as a share of "
        f"energy. Largest share of one module, the mean: {means}."
    )


def _bridge(bridge: Mapping[str, Any] | None) -> list[list[Cell]]:
    """A table: the subnetworks of the largest shares down, modules across."""
    if bridge is None:
        return []
    shares = bridge["shares"]["subnetworks"]
    n = len(shares[0]) - 1
    head: list[Cell] = ["subnetwork", *(f"module {k + 1}" for k in range(n)), "none"]
    order = sorted(range(len(shares)), key=lambda row: -max(shares[row][:-1]))[:N_SUBNETWORKS]
    return [head, *([str(row), *(f"{share:.0%}" for share in shares[row])] for row in order)]


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _script_json(data: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
