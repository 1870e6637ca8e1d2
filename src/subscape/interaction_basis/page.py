"""One HTML page on which an interaction graph can be explored, without a network connection.

Everything is inside the file: the graph as JSON, the style and a script that draws it. Hover or focus a
direction to see its edges; a slider leaves out weak ones.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources

from subscape.interaction_basis.graph import InteractionGraph
from subscape.interaction_basis.modules import Modules, log_weights
from subscape.interaction_basis.pictures import colour_of, shown_directions


def graph_page(
    graph: InteractionGraph,
    modules: Modules,
    thresholds: Sequence[float],
    *,
    title: str = "Interaction graph",
    labels: Mapping[tuple[int, int], str] | None = None,
    most: int = 60,
) -> str:
    """The HTML; title and labels are escaped, other arguments are those of `pictures.draw_graph`."""
    labels, member = labels or {}, modules.of()
    shown = shown_directions(graph, thresholds, most)
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
    links = []
    for layer, (edges, threshold) in enumerate(zip(graph.edges, thresholds, strict=False)):
        weights = log_weights(edges, threshold)[:most, :most]
        # The weakest edge that is required has the weight 0.
        for to, come_from in (edges[:most, :most] >= threshold).nonzero().tolist():
            weight = round(float(weights[to, come_from]), 4)
            links.append([layer, come_from, to, weight, float(edges[to, come_from])])
    data = {"layers": layers, "edges": links, "modules": modules.described}
    template = resources.files("subscape.interaction_basis").joinpath("page.html")
    text = template.read_text(encoding="utf-8")
    filled = {"{{title}}": html.escape(title), "{{data}}": _script_json(data)}
    # In one go, as a title may hold the name of a gap.
    return re.sub("|".join(filled), lambda gap: filled[gap[0]], text)


def _script_json(data: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
