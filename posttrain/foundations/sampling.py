"""From logits to the next token: temperature, cuts, penalties, one draw.

    settings = Sampling(temperature=0.8, top_p=0.95)
    tokens, logprobs = sample(logits, settings, generator=generator)

Each rule is a function from logits (..., V) to logits (..., V): a token that is cut has
-inf. `Sampling` applies them in the order of `transformers`: penalty, temperature,
top-k, top-p, min-p; the parity tests hold each one and the chain to its results.

Not covered here: beams (`sampling_beam`), the loop over tokens (`sampling_generate`),
speculative drafts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CUT = float("-inf")


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """logits / temperature: below 1 sharper, above 1 flatter, the order unchanged."""
    if not temperature > 0:
        raise ValueError(
            f"temperature={temperature} must be above 0; for the most likely token"
            " take greedy decoding"
        )
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Cut all but the k most likely tokens; ties with the k-th stay.

    Source: Fan et al. 2018, section 5.1.
    """
    if k < 1:
        raise ValueError(f"top_k={k} must be at least 1; None keeps all")
    least = logits.topk(min(k, logits.shape[-1])).values[..., -1:]  # (..., 1)
    return logits.masked_fill(logits < least, CUT)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens with probability p or more together.

    The token that passes p is still in, so at least one stays.
    Source: Holtzman et al. 2020, eq. 2 (nucleus sampling).
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p={p} must be above 0 and at most 1")
    if p == 1:
        return logits  # the rounded sum may reach 1 before the last token
    order = logits.sort(dim=-1, descending=True, stable=True)
    probs = order.values.softmax(dim=-1)
    before = probs.cumsum(dim=-1) - probs  # of all likelier tokens
    cut = torch.zeros_like(logits, dtype=torch.bool)
    cut.scatter_(-1, order.indices, before >= p)
    return logits.masked_fill(cut, CUT)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Cut each token whose probability is below p times that of the likeliest.

    The bar moves with the model's confidence. Source: Nguyen et al. 2024, eq. 2.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"min_p={p} must lie in 0 ... 1")
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < p * probs.amax(dim=-1, keepdim=True), CUT)


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make each token of `seen` less likely: logit / penalty if positive, else times.

    logits: (B, V), seen: boolean (B, V), True for what the row already holds.
    Not invariant to a shift of the logits. Source: Keskar et al. 2019, section 4.1.
    """
    if not penalty > 0:
        raise ValueError(f"repetition_penalty={penalty} must be above 0; 1 is none")
    less = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, less, logits)


@dataclass(frozen=True)
class Sampling:
    """How to choose a token. temperature 0 is greedy; the defaults draw from the model.

    Raises ValueError for a setting out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self):
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} is below 0; 0 is greedy")
        probe = torch.zeros(1, 2)
        seen = torch.ones(1, 2, dtype=torch.bool)
        self.process(probe, seen)  # each rule checks its own setting

    @property
    def greedy(self) -> bool:
        """Takes the likeliest token; nothing is drawn."""
        return self.temperature == 0

    def process(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """The logits (B, V) that tokens are drawn from.

        seen: boolean (B, V); needed with a repetition penalty.
        """
        if self.repetition_penalty != 1.0:
            if seen is None:
                raise ValueError("a repetition penalty needs `seen`, the tokens so far")
            logits = penalise_repetition(logits, seen, self.repetition_penalty)
        if not self.greedy:
            logits = scale_temperature(logits, self.temperature)
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = keep_top_p(logits, self.top_p)
        if self.min_p is not None:
            logits = keep_min_p(logits, self.min_p)
        return logits


def sample(
    logits: Tensor,
    settings: Sampling,
    *,
    seen: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One token for each row of logits (B, V): (B,).

    A generator must be on the logits' device.
    """
    processed = settings.process(logits.float(), seen)
    if settings.greedy:
        return processed.argmax(dim=-1)
    probs = processed.softmax(dim=-1)
    return torch.multinomial(probs, 1, generator=generator)[:, 0]


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """log p of tokens (...,) under logits (..., V) at a temperature: (...,), float32.

    What policy-gradient methods call the log-probability of an action. Cuts and
    penalties do not enter: they belong to the way of choosing, not to the model.
    """
    logits = logits.float() / (temperature or 1.0)
    return torch.log_softmax(logits, dim=-1).gather(-1, tokens[..., None])[..., 0]
