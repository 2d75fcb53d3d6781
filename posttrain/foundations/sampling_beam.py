"""Beam search: keep the K likeliest beginnings, not one.

    [best, *others] = beam_search(model, [prompt], max_new=32, beams=4, stop={end})[0]
    best.tokens, best.logprob, best.score

The prompts share one batch, K lines each, and one cache. After each token a beam may go
on from another line than before, so the cache moves with it (`Text.select`): a beam
that reads the keys of another text is silently wrong.

Ended beams are compared by logprob / length ** length_penalty, the formula of
`transformers`, whose results these are with `early_stopping="never"`. Source of the
penalty's idea: Wu et al. 2016, where they describe their decoder.

Not covered here: groups of diverse beams, constraints, drawing among the beams.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from posttrain.foundations.sampling_generate import Text, check_lengths


@dataclass(frozen=True)
class Beam:
    """One continuation: its tokens, a stop token included, and how likely it is."""

    tokens: list[int]
    logprob: float  # sum over its tokens, nats
    score: float  # logprob / length ** length_penalty


def beam_step(scores: Tensor, logprobs: Tensor, n: int) -> tuple[Tensor, ...]:
    """The n likeliest of all K * V ways to add a token, best first.

    scores: (K,) log-probabilities of the beams so far; logprobs: (K, V) of each next
    token. Returns three tensors (n,): new scores, which beam it goes on from, token.
    """
    totals = scores[:, None] + logprobs  # (K, V)
    best = totals.flatten().topk(min(n, totals.numel()))
    V = logprobs.shape[1]
    return best.values, best.indices // V, best.indices % V


@dataclass
class Search:
    """The beams of one prompt: K that go on, and the best K that have ended."""

    K: int
    stop: frozenset[int]
    max_new: int
    length_penalty: float
    running: list[Beam] = field(default_factory=list)
    ended: list[Beam] = field(default_factory=list)

    def __post_init__(self):
        # K equal lines would stay equal for ever: only the first may begin
        dead = Beam([], float("-inf"), float("-inf"))
        self.running = [Beam([], 0.0, 0.0)] + [dead] * (self.K - 1)

    def step(self, logprobs: Tensor) -> list[int]:
        """One token more, logprobs: (K, V). Which line each of the K goes on from."""
        scores = torch.tensor([beam.logprob for beam in self.running])
        # at most K * len(stop) of them end, so K are left to go on
        n = self.K * (1 + len(self.stop))
        found = beam_step(scores.to(logprobs), logprobs, n)
        going_on, parents = [], []
        for rank, (logprob, parent, token) in enumerate(
            zip(*(part.tolist() for part in found), strict=True)
        ):
            beam = self.beam([*self.running[parent].tokens, token], logprob)
            if token not in self.stop and len(going_on) < self.K:
                going_on.append(beam)
                parents.append(parent)
            elif token in self.stop and rank < self.K:
                self.end(beam)
        self.running = going_on
        return parents

    def beam(self, tokens: list[int], logprob: float) -> Beam:
        """A beam with its score."""
        return Beam(tokens, logprob, logprob / len(tokens) ** self.length_penalty)

    def end(self, beam: Beam) -> None:
        """Put it among the ended ones, of which the best K are kept."""
        if beam.logprob > float("-inf"):
            best_first = sorted([*self.ended, beam], key=lambda b: -b.score)
            self.ended = best_first[: self.K]

    @property
    def done(self) -> bool:
        """At the limit, or no running beam can still beat an ended one.

        A log-probability never rises, so the best that a beam can hope for is to keep
        its own, at the length that suits it best: the longest, if length is rewarded.
        """
        length = len(self.running[0].tokens)
        if length == self.max_new:
            return True
        if len(self.ended) < self.K:
            return False
        longest = self.max_new if self.length_penalty > 0 else length + 1
        hope = self.running[0].logprob / longest**self.length_penalty
        return hope <= self.ended[-1].score

    def result(self) -> list[Beam]:
        """The best K, best first; fewer where so many texts do not exist."""
        if len(self.running[0].tokens) == self.max_new:
            for beam in self.running:
                self.end(beam)
        return self.ended


@torch.no_grad()
def beam_search(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new: int,
    *,
    beams: int = 4,
    stop: Collection[int] = (),
    length_penalty: float = 1.0,
) -> list[list[Beam]]:
    """The likeliest continuations that it finds for each prompt, best first.

    model, prompts: as in `generate`; prompt and answer must fit into config.T.
    length_penalty: 0 compares sums of log-probabilities, which favours short answers;
        1 compares means; above 1 favours long ones.
    Raises ValueError for beams below 1 and as `generate` does.
    """
    if beams < 1:
        raise ValueError(f"beams={beams} must be at least 1")
    check_lengths(prompts, max_new, model.config.T)
    was_training = model.training
    model.eval()
    try:
        stop = frozenset(stop)
        searches = [Search(beams, stop, max_new, length_penalty) for _ in prompts]
        _search(Text(model, prompts, max_new), searches, beams)
    finally:
        model.train(was_training)
    return [search.result() for search in searches]


def _search(text: Text, searches: list[Search], K: int) -> None:
    text.select([line for line in range(len(searches)) for _ in range(K)])
    while True:
        logprobs = text.logits.float().log_softmax(-1)  # (searches * K, V)
        lines, active = [], []
        for i, search in enumerate(searches):
            parents = search.step(logprobs[i * K : (i + 1) * K])
            if not search.done:
                active.append(search)
                lines += [i * K + parent for parent in parents]
        if not active:
            return
        searches = active
        text.select(lines)
        text.append([beam.tokens[-1] for s in searches for beam in s.running])
        text.read()
