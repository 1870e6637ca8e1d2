"""What `subscape basis` prints of its stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from subscape.interaction_basis.pictures import METHODS


def print_stage(stage: str, result: dict[str, Any]) -> None:
    """Print the result of one stage."""
    match stage:
        case "build":
            for layer in result["layers"]:
                first = ", ".join(f"{value:.4g}" for value in layer["importance"])
                print(
                    f"  {layer['name']:<14} width {layer['width']:>5}  rank {layer['rank']:>5} "
                    f"(PCA {layer['rank_pca']})  importances {first}, …"
                )
        case "edges":
            for method in ("lib", "pca"):
                for section in result[method]:
                    arrow = f"{section['from']} → {section['to']}"
                    print(f"  {method.upper()}  {arrow:<32} sum of edges {section['sum']:.6g}")
        case "ablate":
            print(f"  {result['score']} {result['base']:.5f}, within {result['tolerance']:g}")
            names, total = result["names"], result["total"]

            def counts(of: Callable[[str], int]) -> str:
                return "  ".join(f"{METHODS[m][0]} {of(m):>6}" for m in total)

            for number, (a, b) in enumerate(zip(names, names[1:], strict=False)):
                needed = counts(lambda m, n=number: result[m]["sections"][n]["n_edges"])
                print(f"  {f'{a} → {b}':<32} edges required: {needed}")
            ratio = "" if result["ratio"] is None else f", LIB / PCA {result['ratio']:.3f}"
            print(f"  {'all sections':<32} edges required: {counts(total.__getitem__)}{ratio}")
        case "modules":
            for method in ("lib", "pca"):
                found = result[method]
                print(f"  {method.upper()}  sizes {found['sizes']}: {found['described']}")
                if found["swaps"] and not found["randomised"] and found["beyond"]:
                    print("       not compared with shuffled weights: --shuffled 8 does")
        case "effects":
            print(
                f"  {result['score']} {result['base']:.5f}; without each LIB module, and with it alone"
            )
            for effect in result["lib"]:
                others = [sorted(effect[f"random_{kind}"]) for kind in ("without", "alone")]
                middle = [some[len(some) // 2] for some in others]
                print(
                    f"  module {effect['module'] + 1} at node layer {effect['layer']}, "
                    f"{effect['n_directions']} directions: {effect['without']:.4f} "
                    f"(random {middle[0]:.4f}), {effect['alone']:.4f} (random {middle[1]:.4f})"
                )
        case "bridge":
            print(
                "  largest share of one module, mean: "
                + ", ".join(f"{kind} {value:.2f}" for kind, value in result["mean_largest"].items())
            )
        case _:
            for path in result["files"]:
                print(f"  {path}")
