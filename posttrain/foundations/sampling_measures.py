"""What samples are worth: how likely, how varied, how repetitive, how often right.

pass_at_k(n=64, c=10, k=8)              at least one of 8 is right
mixed_groups(n=64, c=10, size=8)        of 8, some are right and some wrong
word_measures(texts, vocabulary)        real words, distinct and repeated ones
score(model, prompts, answers, settings)   likelihood, entropy, mass that was kept
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor, nn

from posttrain.foundations.sampling import Sampling, token_logprobs

# ------------------------------------------------------------------- right or wrong


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k is right, from n tries of which c were.

    Unbiased: all subsets of k tries count alike. The product avoids the huge binomials
    of 1 - C(n - c, k) / C(n, k). Raises ValueError unless 0 <= c <= n, 1 <= k <= n.
    Source: Chen et al. 2021, eq. 1 and figure 3.
    """
    _check_counts(n, c, k)
    if n - c < k:
        return 1.0  # any k of them hold a right one
    all_wrong = 1.0
    for i in range(n - c + 1, n + 1):
        all_wrong *= 1.0 - k / i
    return 1.0 - all_wrong


def mixed_groups(n: int, c: int, size: int) -> float:
    """Probability that `size` of n tries, c of them right, are neither all right nor
    all wrong.

    Only such a group has rewards that differ, so only it moves a policy whose
    advantages are taken against the mean of the group. Raises as `pass_at_k`.
    """
    _check_counts(n, c, size)
    alike = comb(c, size) + comb(n - c, size)
    return 1.0 - alike / comb(n, size)


def _check_counts(n: int, c: int, k: int) -> None:
    if not 0 <= c <= n:
        raise ValueError(f"c={c} right ones of n={n}: needs 0 <= c <= n")
    if not 1 <= k <= n:
        raise ValueError(f"k={k} must be 1 ... n={n}; draw more samples")


def majority(answers: Sequence[str]) -> str:
    """The commonest answer; of equally common ones, the one that came first."""
    return Counter(answers).most_common(1)[0][0]


# --------------------------------------------------------------------------- words

WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")


def words(text: str, whole: bool = True) -> list[str]:
    """The words of a text, in lower case. whole: its first and last may be cut off,
    so they are left out."""
    found = [word.lower() for word in WORD.findall(text)]
    return found[1:-1] if whole else found


def word_measures(texts: Sequence[str], vocabulary: Collection[str]) -> dict:
    """Shares between 0 and 1 over all texts together; 0 where nothing is to share.

    real: words that are in `vocabulary`. distinct: different pairs of neighbours among
    all pairs (distinct-2, Li et al. 2016). repeated: triples that came before in the
    *same* text.
    """
    listed = [words(text) for text in texts]
    every = [word for text in listed for word in text]
    pairs = [pair for text in listed for pair in ngrams(text, 2)]
    triples = [ngrams(text, 3) for text in listed]
    again = sum(len(text) - len(set(text)) for text in triples)
    return {
        "words": len(every),
        "real": _share(sum(word in vocabulary for word in every), len(every)),
        "distinct": _share(len(set(pairs)), len(pairs)),
        "repeated": _share(again, sum(map(len, triples))),
    }


def ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n neighbours."""
    return list(zip(*(items[i:] for i in range(n)), strict=False))


def _share(part: int, whole: int) -> float:
    return part / max(whole, 1)


# ---------------------------------------------------------------------- likelihood


@dataclass(frozen=True)
class Score:
    """Of each token of each answer, (N, T_answer)."""

    nats: Tensor  # -log p under the model, at temperature 1
    entropy: Tensor  # of the distribution that tokens are drawn from, nats
    kept: Tensor  # the share of the model's mass, at the temperature, that is not cut

    def means(self) -> dict[str, float]:
        """Mean nats and entropy a token, and of log kept: what the sampler's
        log-probabilities differ from the model's by."""
        return {
            "nats": self.nats.mean().item(),
            "entropy": self.entropy.mean().item(),
            "log_kept": self.kept.log().mean().item(),
        }


@torch.no_grad()
def score(
    model: Callable[[Tensor], Tensor] | nn.Module,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    settings: Sampling,
) -> Score:
    """Read prompts (N, T_prompt) and answers (N, T_answer) in one pass.

    All prompts are equally long, and so are all answers. A greedy setting has entropy
    0 and keeps the probability of one token.
    """
    device = next(model.parameters()).device
    prompt, answer = (torch.tensor(x, device=device) for x in (prompts, answers))
    T = prompt.shape[1]
    logits = model(torch.cat([prompt, answer], 1))[:, T - 1 : -1].float()  # (N, T_a, V)
    nats = -token_logprobs(logits, answer)
    chosen = drawn_from(logits, settings, prompt, answer)
    logp = chosen.log_softmax(-1)
    entropy = -(logp.exp() * logp.masked_fill(logp == float("-inf"), 0.0)).sum(-1)
    model_p = (logits / (settings.temperature or 1.0)).softmax(-1)
    kept = (model_p * chosen.isfinite()).sum(-1)
    return Score(nats, entropy, kept)


def drawn_from(
    logits: Tensor, settings: Sampling, prompt: Tensor, answer: Tensor
) -> Tensor:
    """What the sampler made of logits (N, T_answer, V): -inf where a token was cut."""
    N, T, V = logits.shape
    seen = None
    if settings.repetition_penalty != 1:
        past = torch.cat([prompt, answer[:, :-1]], 1)
        marks = torch.nn.functional.one_hot(past, V).cumsum(1).bool()  # (N, T_all, V)
        seen = marks[:, prompt.shape[1] - 1 :].reshape(N * T, V)
    chosen = settings.process(logits.reshape(N * T, V), seen)
    if settings.greedy:
        only = chosen.argmax(-1, keepdim=True)
        mask = torch.ones_like(chosen, dtype=torch.bool).scatter_(1, only, False)
        chosen = chosen.masked_fill(mask, float("-inf"))
    return chosen.view(N, T, V)
