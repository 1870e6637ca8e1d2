"""Decoder language models of the Llama and GPT-2 styles as chains of smooth sections.

Per block six node layers, each of all that crosses the cut, on the last axis:

    ln1       residual                      -> its variance
    ln1_out   variance, residual            -> normalise
    attn_in   normalised, residual          -> attention, added to the residual
    ln2, ln2_out, mlp_in                       the same around the MLP

and in the end ln_final, ln_final_out and unembed, the normalised residual. Attention scores, keys, values
and MLP neurons stay inside a section. The model's own modules are called and never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from subscape._checks import problem, require
from subscape._shapes import Int
from subscape.interaction_basis.chain import Chain, Section

AGREE = 1e-3
"""Largest difference between the chain's logits and the model's, as a share of the largest logit."""


@dataclass(frozen=True)
class Norm:
    """A norm in two steps: its variance, and the rest with that variance given."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    centred: bool
    """LayerNorm takes the mean off; RMSNorm does not."""

    def variance(self, residual: Tensor) -> Tensor:
        """Append the variance in front of the residual stream."""
        return torch.cat([self._centre(residual).square().mean(-1, keepdim=True), residual], -1)

    def normalise(self, values: Tensor) -> Tensor:
        """From (variance, residual) to the normalised stream."""
        # An ablation may leave a negative variance.
        scale = (values[..., :1].relu() + self.eps).rsqrt()
        normed = self._centre(values[..., 1:]) * scale * self.weight
        return normed if self.bias is None else normed + self.bias

    def with_residual(self, values: Tensor) -> Tensor:
        """From (variance, residual) to (normalised, residual)."""
        return torch.cat([self.normalise(values), values[..., 1:]], -1)

    def _centre(self, residual: Tensor) -> Tensor:
        return residual - residual.mean(-1, keepdim=True) if self.centred else residual


Branch = tuple[Norm, Section]
"""A norm and what reads the normalised stream; its output is added to the residual."""


@dataclass(frozen=True)
class Decoder:
    """The parts of a decoder."""

    embed: Callable[[Tensor], Tensor]
    blocks: tuple[tuple[Branch, Branch], ...]
    """Attention and MLP of every block."""
    norm: Norm
    unembed: Section


def decoder_chain(
    model: nn.Module, *, first_block: int = 0, last_block: int | None = None
) -> Chain:
    """Cut a decoder into sections: the chain from token ids to logits.

    Args:
        model: a `LlamaForCausalLM`, `GPT2LMHeadModel` or one built like these, in eval mode.
        first_block: the first block that is cut; those before it belong to the embedding.
        last_block: one past the last block that is cut; those after it belong to the read-out. By default
            all are cut, and the final norm too.

    Raises:
        ValueError: if the model is of neither style, is in training mode, or the chain does not give
            its logits.
    """
    require(not model.training, "model", "a model in eval mode", "one in training mode")
    parts = _parts(model)
    n = len(parts.blocks)
    stop = n if last_block is None else last_block
    require(
        0 <= first_block < stop <= n,
        "first_block, last_block",
        f"a range of the {n} blocks",
        f"{first_block} to {stop}",
    )
    names, sections, isolated = _cut(parts, first_block, stop)
    if last_block is None:
        names += ["ln_final", "ln_final_out", "unembed"]
        sections += [parts.norm.variance, parts.norm.normalise]
        isolated += [0, 0, 0]
    else:
        names.append(f"ln1.{stop}" if stop < n else "ln_final")
        isolated.append(0)

    def readout(values: Tensor) -> Tensor:
        if last_block is not None:
            values = _run(parts.blocks[stop:], values)
            values = parts.norm.normalise(parts.norm.variance(values))
        return parts.unembed(values)

    def embed(tokens: Tensor) -> Tensor:
        return _run(parts.blocks[:first_block], parts.embed(tokens))

    whole = Chain(tuple(names), tuple(sections), embed, readout, tuple(isolated))
    _check_logits(model, whole)
    return whole


def _cut(parts: Decoder, first: int, stop: int) -> tuple[list[str], list[Section], list[int]]:
    names: list[str] = []
    sections: list[Section] = []
    kinds = ("ln1", "ln1_out", "attn_in"), ("ln2", "ln2_out", "mlp_in")
    for number in range(first, stop):
        for kind, (norm, branch) in zip(kinds, parts.blocks[number], strict=True):
            names += [f"{name}.{number}" for name in kind]
            sections += [norm.variance, norm.with_residual, _added(branch)]
    return names, sections, [0, 1, 0] * (len(sections) // 3)


def _added(branch: Section) -> Section:
    """From (normalised, residual) to the residual with the branch's output."""

    def section(values: Tensor) -> Tensor:
        normed, residual = values.chunk(2, -1)
        return residual + branch(normed)

    return section


def _run(blocks: Iterable[Iterable[Branch]], values: Tensor) -> Tensor:
    for norm, branch in chain.from_iterable(blocks):
        values = values + branch(norm.normalise(norm.variance(values)))
    return values


def _parts(model: Any) -> Decoder:
    missing = ""
    try:
        if hasattr(model, "lm_head") and hasattr(getattr(model, "model", None), "embed_tokens"):
            return _llama(model)
        if hasattr(model, "lm_head") and hasattr(getattr(model, "transformer", None), "wte"):
            return _gpt2(model)
    except AttributeError as error:
        missing = f" ({error})"
    raise ValueError(
        problem(
            "model",
            "a causal language model built like Llama or GPT-2",
            f"{type(model).__name__}{missing}",
            "Write its sections yourself and pass Chain(names, sections).",
        )
    )


def _llama(model: Any) -> Decoder:
    inner = model.model

    def attention(module: nn.Module, window: int | None) -> Section:
        def run(normed: Tensor) -> Tensor:
            places = torch.arange(normed.shape[-2], device=normed.device)[None]
            rotary = inner.rotary_emb(normed.new_zeros(1, 1), places)
            mask = _causal(normed, window)
            return module(normed, position_embeddings=rotary, attention_mask=mask)[0]

        return run

    def norm(module: Any) -> Norm:
        return Norm(module.weight.detach(), None, module.variance_epsilon, centred=False)

    blocks = tuple(
        (
            (norm(layer.input_layernorm), attention(layer.self_attn, _window(model.config, n))),
            (norm(layer.post_attention_layernorm), layer.mlp),
        )
        for n, layer in enumerate(inner.layers)
    )
    return Decoder(inner.embed_tokens, blocks, norm(inner.norm), model.lm_head)


def _gpt2(model: Any) -> Decoder:
    inner = model.transformer

    def attention(module: nn.Module) -> Section:
        return lambda normed: module(normed, attention_mask=_causal(normed))[0]

    def norm(module: Any) -> Norm:
        return Norm(module.weight.detach(), module.bias.detach(), module.eps, centred=True)

    def embed(tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[-1], device=tokens.device)
        return inner.wte(tokens) + inner.wpe(places)

    blocks = tuple(
        ((norm(layer.ln_1), attention(layer.attn)), (norm(layer.ln_2), layer.mlp))
        for layer in inner.h
    )
    return Decoder(embed, blocks, norm(inner.ln_f), model.lm_head)


def _window(config: Any, layer: int) -> int | None:
    """How many positions back a layer may look, its own included; None is all."""
    kinds = getattr(config, "layer_types", None)
    slides = kinds is None or kinds[layer] == "sliding_attention"
    return getattr(config, "sliding_window", None) if slides else None


def _causal(values: Tensor, window: int | None = None) -> Tensor:
    """0 where a position may look, the most negative number where it may not."""
    n = values.shape[-2]
    least = torch.finfo(values.dtype).min
    full = torch.full((1, 1, n, n), least, dtype=values.dtype, device=values.device)
    return full.triu(1) if window is None else full.triu(1) + full.tril(-window)


@torch.no_grad()
def _check_logits(model: Any, whole: Chain) -> None:
    vocabulary = model.lm_head.weight.shape[0]
    device = model.lm_head.weight.device
    tokens: Int[Tensor, "sample token"] = (
        torch.arange(14, device=device).reshape(2, 7) * 31
    ) % vocabulary
    wanted, found = model(tokens).logits, whole.outputs(tokens)
    off = float((wanted - found).abs().max() / wanted.abs().max())
    require(
        off <= AGREE,
        "model",
        "a decoder whose sections give its own logits",
        f"logits that differ by {off:.2g} of the largest",
        f"{type(model).__name__} computes something else than Llama or GPT-2 do: write its sections "
        "yourself and pass Chain(names, sections).",
    )
