"""How fast the model is: beside Llama of `transformers`, and beside itself uncached.

    ours, theirs = same_weights(config)
    pairs = interleaved(lambda: step(ours, batch), lambda: step(theirs, batch), 9)
    ratio(pairs)        # above 1: ours is faster

Two programs that share a machine with others are compared fairly only side by side:
A, B, B, A, ... Each pair gives one ratio; their median is what we report. A pause of
the machine then spoils one pair, not one program.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from posttrain.clock import seconds
from posttrain.foundations.language_model import next_token_loss
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.modern_architecture_hf import from_hf, make_llama
from posttrain.foundations.sampling import Sampling
from posttrain.foundations.sampling_generate import generate

GREEDY = Sampling(temperature=0.0)
Pairs = list[tuple[float, float]]


def same_weights(config: GPTConfig, seed: int = 0):
    """(ours, theirs): a `GPT` and a `LlamaForCausalLM` with equal weights.

    QK norm is left out, because Llama has none.
    """
    torch.manual_seed(seed)
    fresh = GPT(replace(config, qk_norm=False))
    theirs = make_llama(fresh.config)
    ours = from_hf(theirs)
    return ours, theirs


def logits_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits (B, T, V), of our model or of one from `transformers`."""
    if isinstance(model, GPT):
        return model(tokens)
    return model(tokens, use_cache=False).logits  # a step of training needs no cache


def training_step(model: nn.Module, optimizer, tokens: Tensor) -> float:
    """Forward, backward and a step on tokens (B, T + 1). Returns the loss, in nats."""
    loss = next_token_loss(logits_of(model, tokens[:, :-1]), tokens[:, 1:])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def greedy_ours(model: GPT, prompts: Tensor, n: int) -> list[list[int]]:
    """n tokens after each of prompts (B, T), by our `generate`."""
    rows = generate(model, prompts.tolist(), n, settings=GREEDY)
    return [row.tokens for row in rows]


def greedy_theirs(model: nn.Module, prompts: Tensor, n: int) -> list[list[int]]:
    """The same by `model.generate` of `transformers`, with its KV cache."""
    text = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=n,
        do_sample=False,
        use_cache=True,
    )
    return text[:, prompts.shape[1] :].tolist()


@torch.no_grad()
def greedy_uncached(model: GPT, prompts: Tensor, n: int) -> list[list[int]]:
    """The same with no cache: each step reads the whole text again."""
    tokens = prompts
    for _ in range(n):
        newest = model.hidden(tokens)[:, -1:]  # (B, 1, C): one read-out, as cached
        tokens = torch.cat([tokens, model.head(newest).argmax(dim=-1)], dim=1)
    return tokens[:, prompts.shape[1] :].tolist()


def interleaved(a: Callable, b: Callable, repeats: int, warm_up: int = 1) -> Pairs:
    """Seconds of a and b, in turns; the order within a pair alternates."""
    for _ in range(warm_up):
        a(), b()
    pairs = []
    for i in range(repeats):
        if i % 2:
            second, first = seconds(b), seconds(a)
        else:
            first, second = seconds(a), seconds(b)
        pairs.append((first, second))
    return pairs


def ratio(pairs: Pairs) -> float:
    """Median over the pairs of seconds of b / seconds of a: how much faster a is."""
    return statistics.median(b / a for a, b in pairs)
