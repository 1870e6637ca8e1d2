"""The papers' experiments: settings, targets and comparisons. Nothing in the method imports them.

`recipes` and `toys` for the toys of Local Loss Landscape Decomposition (arXiv 2504.00194), `basis` with
`modular_addition` and `digits` for the Local Interaction Basis. `subscape reproduce` runs them.
"""
