"""One reply out of n, by five selectors: how good is the choice, over n?

    found = choices(policy, draws, problems, n=64, steps=64)
    found["curves"]["learned"]          share right for n = 1, 2, 4 ... 64

    exact       the verifier that knows the answer: right if any of n is (pass@n)
    likely      the reply that the policy itself finds likeliest
    vote        the answer that came most often
    learned     the favourite of a verifier trained on the policy's labelled replies
    weighed     a vote in which a reply counts by what the learned verifier says of it

All curves are over the same replies to held-out problems.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from posttrain.alignment.reward_model import RewardModel
from posttrain.alignment.reward_model_measures import best_of_n
from posttrain.alignment.rollouts import MAX_NEW, Rollout
from posttrain.alignment.verifier import parse
from posttrain.alignment.word_problems import Problem
from posttrain.foundations.trainer import fit
from posttrain.synthetic_data.rejection_sampling import right_answer
from posttrain.synthetic_data.rejection_sampling_arms import Draws
from posttrain.synthetic_data.rejection_sampling_selection import vote_curve
from posttrain.synthetic_data.rejection_sampling_training import answers
from posttrain.synthetic_data.rejection_sampling_verifier import (
    Labelled,
    log_odds,
    verifier_trainer,
)


def choices(
    policy: nn.Module,
    draws: Draws,
    problems: Sequence[Problem],
    n: int,
    steps: int,
    max_new: int = MAX_NEW,
) -> dict:
    """Curves over 1, 2, 4 ... n, and what the learned verifier is like."""
    judge = learned_verifier(policy, draws, steps)
    pool = answers(policy, problems, n, seed=3, max_new=max_new)
    return curves(pool, log_odds(judge, pool).view(-1, n))


def learned_verifier(policy: nn.Module, draws: Draws, steps: int) -> RewardModel:
    """A verifier trained on the draws of the policy and their exact labels."""
    rollouts = draws.rollouts()
    judge = RewardModel(policy)
    device = str(next(judge.parameters()).device)
    right = [right_answer(rollout) for rollout in rollouts]
    labelled = Labelled(rollouts, right, seed=draws.seed, device=device)
    fit(verifier_trainer(judge, labelled, steps))
    return judge.eval()


def curves(pool: Sequence[Rollout], scores: Tensor) -> dict:
    """Everything over n, from N replies to each of P problems and their scores (P, N).

    verdicts: the share of replies on whose side of even odds the verifier is right.
    nats: of the learned favourite, minus its log-probability under the policy, over n.
    fooled: the share of problems where a right reply is among the N and the favourite
    is wrong. examples: a few of those favourites.
    """
    P, N = scores.shape
    ns = [2**i for i in range(N.bit_length()) if 2**i <= N]
    gold = torch.tensor([float(right_answer(r)) for r in pool]).view(P, N)
    nats = torch.tensor([-sum(r.logprobs) for r in pool]).view(P, N)
    given = [parse(r.reply).answer for r in pool]
    rows = [given[i : i + N] for i in range(0, len(pool), N)]
    due = [pool[i].problem.answer for i in range(0, len(pool), N)]
    weights = scores.sigmoid().tolist()
    favourite = scores.argmax(dim=1)
    wrong = gold.gather(1, favourite[:, None])[:, 0] == 0
    fooled = (wrong & gold.any(dim=1)).nonzero()[:, 0].tolist()
    chosen = random.Random(0).sample(fooled, min(4, len(fooled)))
    return {
        "n": ns,
        "curves": {
            "exact": [best_of_n(gold, gold, n) for n in ns],
            "likely": [best_of_n(-nats, gold, n) for n in ns],
            "vote": vote_curve(rows, due, ns),
            "learned": [best_of_n(scores, gold, n) for n in ns],
            "weighed": vote_curve(rows, due, ns, weights),
        },
        "verdicts": ((scores > 0) == (gold > 0)).float().mean().item(),
        "nats": [best_of_n(scores, nats, n) for n in ns],
        "fooled": len(fooled) / P,
        "examples": [
            {
                "question": pool[i * N].problem.question,
                "reply": pool[i * N + int(favourite[i])].reply,
                "answer": due[i],
                "odds": scores[i, favourite[i]].item(),
            }
            for i in chosen
        ],
    }
