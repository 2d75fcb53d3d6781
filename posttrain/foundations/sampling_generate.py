"""Generation for everybody: batched, cached, stoppable, with log-probabilities, and
with tokens that somebody else puts in.

    rows = generate(model, [prompt_1, prompt_2], max_new=64, stop={end},
                    settings=Sampling(temperature=0.8), generator=generator)
    rows[0].tokens, rows[0].logprobs, rows[0].stopped

Prompts of different lengths share one batch: shorter ones are padded on the left, so
that the next token stands in the same column for all. Padding is masked and each row
counts its own positions, so a row gets what it would get alone.

A *tool* speaks through `force`: after each token it sees the row so far and may answer
with tokens, which the row then reads as if the model had said them. They are marked
in `forced`: a loss that trains on what the model chose leaves them out.

Not covered here: beams (`sampling_beam`), a server that lets requests join a running
batch, speculative drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from posttrain.foundations.attention import causal_mask
from posttrain.foundations.sampling import Sampling, sample, token_logprobs

Force = Callable[[int, list[int]], Sequence[int]]
DRAW = Sampling()  # from the model as it is


@dataclass
class Row:
    """What came after one prompt. `logprobs` are those at the sampling temperature."""

    tokens: list[int] = field(default_factory=list)  # the stop token included
    logprobs: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)  # True: not the model's choice
    stopped: bool = False  # by a stop token, not by the limit
    waiting: list[int] = field(default_factory=list, repr=False)  # still to be put in

    def next(self, drawn: int) -> int:
        """The token that this row reads next: one that waits, or the drawn one."""
        return self.waiting[0] if self.waiting else drawn

    def append(self, token: int, logprob: float, stop: Collection[int]) -> None:
        """One token more."""
        self.forced.append(bool(self.waiting))
        self.waiting = self.waiting[1:]
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.stopped = token in stop


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new: int,
    *,
    stop: Collection[int] = (),
    settings: Sampling = DRAW,
    generator: torch.Generator | None = None,
    force: Force | None = None,
    on_token: Callable[[int, int], None] | None = None,
    slide: bool = False,
) -> list[Row]:
    """Continue each prompt by up to `max_new` tokens.

    model: is called with (tokens, mask=, positions=, cache=), returns logits (B, T, V),
        and has `new_cache(B, T_max)` and `config.T`, as `GPT` has.
    stop: ids that end a row, put-in ones too.
    force: force(row, tokens of the row) -> tokens to put in next; asked after each
        token unless some are waiting. An empty answer leaves the choice to the model.
    on_token: on_token(row, token) as soon as it is chosen, for streaming.
    slide: past config.T tokens, forget the older half of the text and read the rest
        anew. False: such a length is a ValueError before anything is generated.
    Raises ValueError for no prompt or an empty one.
    """
    check_lengths(prompts, max_new, model.config.T, slide)
    was_training = model.training
    model.eval()
    try:
        return _generate(
            model, prompts, max_new, stop, settings, generator, force, on_token
        )
    finally:
        model.train(was_training)


def _generate(model, prompts, max_new, stop, settings, generator, force, on_token):
    rows = [Row() for _ in prompts]
    text = Text(model, prompts, max_new, track=settings.repetition_penalty != 1)
    active = list(range(len(rows)))  # which row each line of `text` is
    for left in range(max_new, 0, -1):
        drawn = sample(text.logits, settings, seen=text.seen, generator=generator)
        tokens = [rows[i].next(t) for i, t in zip(active, drawn.tolist(), strict=True)]
        logprobs = text.logprobs(tokens, settings.temperature)
        for i, token, logprob in zip(active, tokens, logprobs, strict=True):
            if rows[i].stopped:
                continue
            rows[i].append(token, logprob, stop)
            if on_token:
                on_token(i, token)
            if force and not rows[i].waiting and not rows[i].stopped:
                rows[i].waiting = list(force(i, rows[i].tokens))
        alive = [line for line, i in enumerate(active) if not rows[i].stopped]
        if not alive or left == 1:
            break
        text.append(tokens)
        if len(alive) <= len(active) / 2:  # no more work for rows that have ended
            text.select(alive)
            active = [active[line] for line in alive]
        text.read()
    return rows


class Text:
    """Lines of tokens, padded on the left, and what the model says comes next.

    `logits` (B, V) are those after the last token. `seen` (B, V), with track=True,
    marks the tokens of each line, its prompt included.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        max_new: int,
        track: bool = False,
    ):
        self.model, self.T_max = model, model.config.T
        device = next(model.parameters()).device
        longest = max(map(len, prompts))
        self.pads = torch.tensor([longest - len(p) for p in prompts], device=device)
        padded = [[0] * (longest - len(p)) + list(p) for p in prompts]
        self.tokens = torch.tensor(padded, device=device)  # (B, T)
        self.room = min(self.T_max, longest + max_new)
        self.cache, self.seen = None, None
        self.read()
        if track:
            self.seen = torch.zeros_like(self.logits, dtype=torch.bool)
            real = torch.arange(longest, device=device) >= self.pads[:, None]
            line, column = real.nonzero(as_tuple=True)
            self.seen[line, self.tokens[line, column]] = True

    def append(self, tokens: Sequence[int]) -> None:
        """One token more for each line; `read` then makes the new logits."""
        new = torch.tensor(tokens, device=self.tokens.device)[:, None]  # (B, 1)
        self.tokens = torch.cat([self.tokens, new], dim=1)
        if self.seen is not None:
            self.seen.scatter_(1, new, True)

    def select(self, lines: Sequence[int]) -> None:
        """Keep these lines, in this order; one may be named twice."""
        index = torch.tensor(lines, device=self.tokens.device)
        self.tokens, self.pads = self.tokens[index], self.pads[index]
        self.logits = self.logits[index]
        if self.seen is not None:
            self.seen = self.seen[index]
        for layer in self.cache:
            layer.select(index)

    def read(self) -> None:
        """Let the model read what it has not read yet."""
        if self.tokens.shape[1] > self.T_max:
            self._forget_older_half()
        B, T = self.tokens.shape
        if self.cache is None:
            self.cache = self.model.new_cache(B, self.room)
        done = self.cache.length
        columns = torch.arange(T, device=self.tokens.device)
        options = {}
        if self.pads.any():  # without padding the model's own defaults are the fast way
            positions = (columns - self.pads[:, None]).clamp(min=0)  # (B, T)
            options = {"positions": positions[:, done:], "mask": self._mask(T - done)}
        unread = self.tokens[:, done:]
        self.logits = self.model(unread, cache=self.cache, **options)[:, -1]  # (B, V)

    def logprobs(self, tokens: Sequence[int], temperature: float) -> list[float]:
        """The model's log-probability of `tokens` as the next of each line."""
        chosen = torch.tensor(tokens, device=self.logits.device)
        return token_logprobs(self.logits, chosen, temperature).tolist()

    def _mask(self, T_new: int) -> Tensor:
        """Causal without the padding; padding sees itself, or its row would be NaN."""
        T = self.tokens.shape[1]
        columns = torch.arange(T, device=self.tokens.device)
        real = columns >= self.pads[:, None]  # (B, T)
        itself = columns == columns[-T_new:, None]  # (T_new, T)
        causal = causal_mask(T_new, T, columns.device)
        return (causal & (real[:, None] | itself))[:, None]  # (B, 1, T_new, T)

    def _forget_older_half(self) -> None:
        gone = self.tokens.shape[1] - self.T_max // 2
        self.tokens = self.tokens[:, gone:]
        self.pads = (self.pads - gone).clamp(min=0)
        self.cache, self.room = None, self.T_max


def check_lengths(
    prompts: Sequence[Sequence[int]], max_new: int, T: int, slide: bool = False
) -> None:
    """Raise ValueError unless there is something to read and room for what comes."""
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError(
            "each prompt needs at least one token; begin with a special token that"
            " starts a document"
        )
    if max_new < 1:
        raise ValueError(f"max_new={max_new} must be at least 1")
    longest = max(map(len, prompts))
    if longest > T:
        raise ValueError(f"a prompt has {longest} tokens, the model reads at most {T}")
    if longest + max_new > T and not slide:
        raise ValueError(
            f"{longest} tokens and {max_new} new ones are more than the model's {T};"
            " lower max_new, or set slide=True to forget the beginning"
        )
