"""The target: which parameters of which model are decomposed, and how to get its outputs.

Takes the user's `nn.Module` and globs over `named_parameters()`; gives names, shapes and a function of
the parameters. The module is only ever called functionally, so it stays exactly as it was found.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from html import escape
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from subscape._checks import nearest, problem, require
from subscape._hash import raw_bytes
from subscape._shapes import Float
from subscape.data import Samples

Outputs = Callable[[Callable[..., Any], Any], Tensor]


class Target:
    """A model, the parameters of it to decompose, and its outputs as a function of those.

    Args:
        model: any module, in eval mode if it has dropout or batch norm; of nnsight's wrapper that within.
        parameters: globs over `named_parameters()`, or names of modules (all their parameters);
            `!glob` takes away, `re:pattern` is a regular expression. A parameter is chosen if any
            pattern matches it and no `!` does.
        outputs: `outputs(model, batch) -> Tensor [sample, ...]` for models whose output is neither a
            tensor nor carries `.logits`. `model` is called there like the user's own.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: str | Sequence[str] = "*",
        *,
        outputs: Outputs | None = None,
    ) -> None:
        self.model = model = unwrapped(model)
        self.names = select(
            model, [parameters] if isinstance(parameters, str) else list(parameters)
        )
        self._outputs = outputs or default_outputs
        self.outputs_name: str = getattr(self._outputs, "__name__", type(self._outputs).__name__)
        """Name of the outputs function; `default_outputs` where none was given."""
        every = dict(model.named_parameters(remove_duplicate=False))
        self.parameters: dict[str, Tensor] = {name: every[name] for name in self.names}
        self._places = places(model, self.names)
        self._hashed: tuple[Any, dict[str, Any]] | None = None
        check_deterministic_modules(model)

    def __repr__(self) -> str:
        kind, n = type(self.model).__name__, len(self.names)
        return f"Target({kind}, {n} tensors with {self.n_parameters:,} parameters)"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.summary())}</pre>"

    def of(self, model: nn.Module) -> Target:
        """The same parameters of another model of the same architecture, with the same outputs."""
        mine = {id(values) for values in self.parameters.values()}
        every = self.model.named_parameters(remove_duplicate=False)
        # A tied parameter has its first name here; a target wants all of them.
        names = [name for name, values in every if id(values) in mine]
        return Target(model, names, outputs=self._outputs)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every chosen parameter, in model order."""
        return {name: tuple(p.shape) for name, p in self.parameters.items()}

    @property
    def n_parameters(self) -> int:
        """Number of chosen scalars."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def like(self) -> Tensor:
        """An empty tensor of the device and dtype to work in: half precision is worked on in float32."""
        first = next(iter(self.parameters.values()))
        half = first.dtype in (torch.float16, torch.bfloat16)
        return torch.empty(0, device=first.device, dtype=torch.float32 if half else first.dtype)

    def outputs(
        self, batch: Samples, parameters: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "sample ..."]:
        """f(x, W), [sample, ...]: the outputs for `batch`, with other values for some of the chosen parameters.

        Raises:
            TypeError: if the model's output is not a tensor and no `outputs` function was given.
        """
        values = {name: p.detach() for name, p in self.parameters.items()} | dict(parameters or {})
        return self._outputs(Functional(self.model, at_places(values, self._places)), batch)

    def moved(self, change: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """W0 + change, of the type of the parameters, as `outputs` takes it."""
        here = {name: self.parameters[name].detach() for name in change}
        return {n: (p.to(change[n].dtype) + change[n]).to(p.dtype) for n, p in here.items()}

    def called(
        self, batch: Samples, model: Callable[..., Any] | None = None
    ) -> Float[Tensor, "sample ..."]:
        """f(x, W0) by calling the model itself, as it is, with its hooks' view; or one that stands for it."""
        return self._outputs(self.model if model is None else model, batch)

    def summary(self, engines: Mapping[str, str] | None = None) -> str:
        """A table of the chosen parameters, with the engine of each if known; see `GradientSource.summary`."""
        width = max(len(name) for name in self.names)
        rows = [
            f"  {name:<{width}}  {str(list(p.shape)):<16} {p.numel():>10,}  {str(p.dtype)[6:]}"
            + (f"  {engines[name]}" if engines else "")
            for name, p in self.parameters.items()
        ]
        total = sum(p.numel() for p in self.model.parameters())
        share = self.n_parameters / total
        head = (
            f"{len(self.names)} tensors of {type(self.model).__name__}, "
            f"{self.n_parameters:,} of {total:,} parameters ({share:.1%})"
        )
        return "\n".join([head, *rows])

    def fingerprint(self) -> dict[str, Any]:
        """Names, shapes, dtypes and a SHA-256 of the values: what a decomposition belongs to.

        Hashed once while nobody changes the parameters; a change through `.data`, which torch does not count,
        shows in their norms and in their sums along every axis.
        """
        state = tuple(
            (p.data_ptr(), p._version, float(torch.linalg.vector_norm(p)), *_moments(p))
            for p in map(Tensor.detach, self.parameters.values())
        )
        if self._hashed is None or self._hashed[0] != state:
            self._hashed = state, self._hash()
        return copy.deepcopy(self._hashed[1])

    def _hash(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        tensors = []
        for name, p in self.parameters.items():
            digest.update(raw_bytes(p))
            tensors.append({"name": name, "shape": list(p.shape), "dtype": str(p.dtype)[6:]})
        model = f"{type(self.model).__module__}.{type(self.model).__qualname__}"
        return {"model": model, "tensors": tensors, "sha256": digest.hexdigest()}


def _moments(values: Tensor) -> list[float]:
    """For every axis the mean place of the values along it, which tells them from the same in another order."""
    sums = (values.movedim(axis, 0)[..., None].flatten(1).sum(1) for axis in range(values.dim()))
    return [float(s.double() @ torch.arange(1, len(s) + 1).to(s).double()) for s in sums]


class Functional:
    """The model with some parameters replaced, callable like the model itself."""

    def __init__(self, model: nn.Module, values: dict[str, Tensor]) -> None:
        self._model, self._values = model, values

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns."""
        return functional_call(self._model, self._values, args, kwargs, tie_weights=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def places(module: nn.Module, names: Iterable[str]) -> dict[str, list[str]]:
    """Where each parameter is registered, once per module that holds it, whatever names that one goes by."""
    # functional_call puts back what it swapped name by name: a module with two names would be left with the
    # swapped values.
    every = dict(module.named_parameters(remove_duplicate=False))
    by_parameter: dict[int, dict[tuple[int, str], str]] = {}
    for name, parameter in every.items():
        owner, _, local = name.rpartition(".")
        place = (id(module.get_submodule(owner)), local)
        by_parameter.setdefault(id(parameter), {}).setdefault(place, name)
    return {name: list(by_parameter[id(every[name])].values()) for name in names}


def at_places(
    values: Mapping[str, Tensor], where: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """Every value under all the names of `places`, for functional_call(…, tie_weights=False)."""
    return {place: value for name, value in values.items() for place in where[name]}


def default_outputs(model: Callable[..., Any], batch: Any) -> Tensor:
    """Call the model on a tensor or on keyword arguments; take the tensor, `.logits`, or entry 0."""
    output = model(**batch) if isinstance(batch, Mapping) else model(batch)
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return output["logits"]
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TypeError(
        problem(
            "outputs",
            "a model that returns a tensor, a tuple that starts with one, or `.logits`",
            type(output).__name__,
            "Pass Target(..., outputs=lambda model, batch: model(batch).your_tensor).",
        )
    )


def match(names: Iterable[str], patterns: str | Sequence[str]) -> list[str]:
    """The names that patterns choose, in their own order; see `Target` for the patterns."""
    every = list(names)
    wanted: set[str] = set()
    dropped: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        body = pattern.removeprefix("!")
        matched = {name for name in every if _matches(name, body)}
        if not matched:
            raise ValueError(
                problem(
                    "parameters",
                    f"patterns over the {len(every)} names of named_parameters()",
                    f"{pattern!r}, which matches none",
                    nearest(body.rstrip(".*"), _names_and_modules(every))
                    or "List them: [n for n, _ in model.named_parameters()].",
                )
            )
        (dropped if pattern.startswith("!") else wanted).update(matched)
    if not wanted and dropped:
        wanted = set(every)  # only exclusions: everything else
    chosen = [name for name in every if name in wanted - dropped]
    require(
        bool(chosen),
        "parameters",
        "patterns that leave at least one parameter",
        repr(list(patterns)),
        "The '!' patterns take away all that the others match.",
    )
    return chosen


def unwrapped(model: Any) -> Any:
    """The module within a wrapper that is none itself, as nnsight's."""
    inner = None if isinstance(model, nn.Module) else getattr(model, "_module", None)
    return inner if isinstance(inner, nn.Module) else model


def select(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the floating-point parameters that `patterns` choose, in model order."""
    _check_callable(model)
    every = dict(model.named_parameters(remove_duplicate=False))
    require(bool(every), "model", "a module with at least one parameter", type(model).__name__)
    chosen = match(every, patterns)
    not_float = [name for name in chosen if not every[name].is_floating_point()]
    require(
        len(not_float) == 0,
        "parameters",
        "floating-point parameters",
        f"{not_float} of {every[not_float[0]].dtype if not_float else None}",
        f"Exclude them: {', '.join(repr(f'!{name}') for name in not_float)}.",
    )
    return _first_names(every, chosen)


def _check_callable(model: nn.Module) -> None:
    """Refuse what is no module whose parameters have values and can be replaced for a call."""
    require(isinstance(model, nn.Module), "model", "a torch.nn.Module", type(model).__name__)
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    for module in model.modules():
        kind = type(module).__name__
        repair = "Give the module inside: model.module."
        require(not isinstance(module, parallel), "model", "a module on one device", kind, repair)
        compiled = isinstance(module, torch.jit.ScriptModule)
        repair = "Give the module that it was compiled from."
        require(not compiled, "model", "a module in Python", kind, repair)
    for name, values in chain(model.named_parameters(), model.named_buffers()):
        lazy = nn.parameter.is_lazy(values)
        repair = "Call the model once on data." if lazy else "Load the weights, to a real device."
        got = f"{name!r}, which is {'lazy' if lazy else 'on the meta device'}"
        require(not (lazy or values.is_meta), "model", "parameters that have values", got, repair)


def _names_and_modules(names: Iterable[str]) -> list[str]:
    """What a pattern may have meant: every parameter, and every module that holds some."""
    modules = {name[:i] for name in names for i, c in enumerate(name) if c == "."}
    return [*names, *sorted(modules)]


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.fullmatch(pattern[3:], name) is not None
        except re.error as error:
            raise ValueError(
                problem(
                    "parameters",
                    "a regular expression after 're:'",
                    f"{pattern!r} ({error})",
                    "Correct it (brackets and dots of names need an escape), or use a glob.",
                )
            ) from error
    return fnmatchcase(name, pattern) or name.startswith(pattern + ".")


def _first_names(every: Mapping[str, Tensor], chosen: list[str]) -> list[str]:
    names: dict[int, list[str]] = {}
    for name, parameter in every.items():
        names.setdefault(id(parameter), []).append(name)
    kept = []
    for group in names.values():
        hit = [name for name in group if name in chosen]
        if hit and len(hit) < len(group):
            missing = [name for name in group if name not in chosen]
            raise ValueError(
                problem(
                    "parameters",
                    f"all names of a tied parameter ({group} are one tensor)",
                    f"only {hit}",
                    f"Add {missing}, or exclude {hit[0]!r} with '!{hit[0]}'.",
                )
            )
        if hit:
            kept.append(hit[0])
    return kept


def check_deterministic_modules(model: nn.Module) -> None:
    """Refuse a model whose rows depend on chance or on their neighbours in the batch."""
    mixing = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    bad = [
        name
        for name, module in model.named_modules()
        if isinstance(module, mixing) and module.training and getattr(module, "p", 1.0) > 0
    ]
    require(
        not bad,
        "model",
        "dropout and batch norm in eval mode, so that a row's gradient is its own",
        f"train mode in {bad[:3]}{' …' if len(bad) > 3 else ''}",
        "Call model.eval() first.",
    )
    borrowing = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None
    ]
    require(
        not borrowing,
        "model",
        "batch norm with running statistics, so that a row's gradient is its own",
        f"batch statistics in {borrowing[:3]}{' …' if len(borrowing) > 3 else ''}",
        "Train it with track_running_stats=True, or replace it by a norm over one row.",
    )


def check_same(mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Refuse the fingerprint of another target; says what differs."""
    ours = {t["name"]: t for t in mine["tensors"]}
    theirs = {t["name"]: t for t in other["tensors"]}
    if ours.keys() != theirs.keys():
        missing, extra = (
            sorted(ours.keys() - theirs.keys()),
            sorted(theirs.keys() - ours.keys()),
        )
        raise ValueError(
            problem(
                "target",
                f"the parameters {list(ours)} this decomposition was made for",
                f"missing {missing}, unknown {extra}",
                "Choose the same parameters of the same model.",
            )
        )
    for name, tensor in ours.items():
        require(
            tensor == theirs[name],
            "target",
            f"{name} of shape {tensor['shape']} and type {tensor['dtype']}",
            f"shape {theirs[name]['shape']} and type {theirs[name]['dtype']}",
            "Load the model this decomposition was made for.",
        )
    require(
        mine["sha256"] == other["sha256"],
        "target",
        f"parameter values with SHA-256 {mine['sha256'][:12]}…",
        f"{other['sha256'][:12]}…: same shapes, other values",
        (
            "Load the very checkpoint this decomposition was made for (and undo edits of it: "
            "one edit takes several deltas), or decompose this one."
        ),
    )
