"""Answers that the grader of `reward_model` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import math

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------- pair_loss


def pair_by_softplus(chosen, rejected):
    return F.softplus(rejected - chosen).mean()


def pair_by_two_logits(chosen, rejected):
    """Bradley and Terry's model is a softmax over two."""
    logits = torch.stack([chosen, rejected], dim=1)
    return F.cross_entropy(logits, torch.zeros(len(chosen), dtype=torch.long))


def pair_by_logaddexp(chosen, rejected):
    return (torch.logaddexp(chosen, rejected) - chosen).mean()


def pair_clamped(chosen, rejected):
    return -F.logsigmoid((chosen - rejected).clamp(-20, 20)).mean()


# ---------------------------------------------------------------- labelled_loss


def labelled_by_bce(chosen, rejected, margin, target):
    d = chosen - rejected - margin
    return F.binary_cross_entropy_with_logits(d, target)


def labelled_by_softplus(chosen, rejected, margin, target):
    d = chosen - rejected - margin
    return (F.softplus(-d) + (1 - target) * d).mean()


def labelled_hard(chosen, rejected, margin, target):
    d = chosen - rejected - margin
    return F.binary_cross_entropy_with_logits(d, (target > 0.5).to(d.dtype))


def labelled_margin_scales(chosen, rejected, margin, target):
    d = (chosen - rejected) * (1 + margin)
    return F.binary_cross_entropy_with_logits(d, target)


# ---------------------------------------------------------------- centred_loss


def centred_by_sums(chosen, rejected, coefficient):
    B = chosen.numel()
    total = chosen + rejected
    return (F.softplus(rejected - chosen).sum() + coefficient * total @ total) / B


def centred_chosen_only(chosen, rejected, coefficient):
    return -F.logsigmoid(chosen - rejected).mean() + coefficient * (chosen**2).mean()


def centred_absolute(chosen, rejected, coefficient):
    penalty = (chosen + rejected).abs().mean()
    return -F.logsigmoid(chosen - rejected).mean() + coefficient * penalty


# ---------------------------------------------------------------- last_reward


def last_by_flip(scores, mask):
    back = mask.flip(1).int().argmax(dim=1)
    rows = torch.arange(len(scores))
    return scores[rows, scores.shape[1] - 1 - back]


def last_row_by_row(scores, mask):
    return torch.stack([s[m][-1] for s, m in zip(scores, mask, strict=True)])


def last_by_cumsum(scores, mask):
    seen = mask.int().cumsum(dim=1)
    is_last = mask & (seen == seen[:, -1:])
    return (scores * is_last).sum(dim=1)


def last_second_to_last(scores, mask):
    places = torch.arange(mask.shape[1])
    last = ((places * mask).argmax(dim=1) - 1).clamp(min=0)
    return scores.gather(1, last[:, None])[:, 0]


def last_assumes_left_padding(scores, mask):
    return (scores * mask)[:, -1]


# ---------------------------------------------------------------- calibration_error


def calibration_by_bincount(probabilities, wins, bins):
    place = (probabilities * bins).floor().clamp(max=bins - 1).long()
    gaps = torch.zeros(bins, dtype=torch.float64)
    gaps.index_add_(0, place, (probabilities - wins).double())
    return (gaps.abs().sum() / len(wins)).item()


def calibration_by_bucketize(probabilities, wins, bins):
    edges = torch.arange(1, bins, dtype=torch.float64) / bins
    place = torch.bucketize(probabilities, edges, right=True)
    total = 0.0
    for b in range(bins):
        here = place == b
        if here.any():
            gap = (probabilities[here].mean() - wins[here].mean()).abs().item()
            total += here.double().mean().item() * gap
    return total


def calibration_equal_counts(probabilities, wins, bins):
    order = probabilities.argsort()
    parts = order.tensor_split(bins)
    gaps = [(probabilities[p].sum() - wins[p].sum()).abs().item() for p in parts]
    return sum(gaps) / len(wins)


def calibration_largest(probabilities, wins, bins):
    place = (probabilities * bins).long().clamp(max=bins - 1)
    gaps = [
        (probabilities[place == b].mean() - wins[place == b].mean()).abs().item()
        for b in place.unique()
    ]
    return max(gaps)


# ---------------------------------------------------------------- fit_strengths


def strengths_by_newton(games, K):
    s = torch.zeros(K, dtype=torch.float64)
    for _ in range(10):
        slope = torch.zeros(K, dtype=torch.float64)
        bend = torch.full((K, K), 1 / K, dtype=torch.float64)
        for i, j, result in games:
            p = torch.sigmoid(s[i] - s[j])
            e = torch.zeros(K, dtype=torch.float64)
            e[i] += 1
            e[j] -= 1
            slope += (result - p) * e
            bend += p * (1 - p) * torch.outer(e, e)
        s = s + torch.linalg.solve(bend, slope)
    return s - s.mean()


def strengths_by_gradient(games, K):
    first, second, result = (torch.tensor(x) for x in zip(*games, strict=True))
    result = result.double()
    s = torch.zeros(K, dtype=torch.float64)
    for _ in range(1500):
        wrong = result - torch.sigmoid(s[first] - s[second])
        slope = torch.zeros_like(s).index_add_(0, first, wrong)
        slope.index_add_(0, second, -wrong)
        s = s + slope * (4.0 / len(games))
    return s - s.mean()


def strengths_as_elo(games, K):
    """One pass in the order of the games: depends on that order."""
    s = [0.0] * K
    for i, j, result in games:
        wrong = result - 1 / (1 + math.exp(s[j] - s[i]))
        s[i] += 0.1 * wrong
        s[j] -= 0.1 * wrong
    s = torch.tensor(s, dtype=torch.float64)
    return s - s.mean()


def strengths_shrunk(games, K):
    """Half a win for each over everybody: a prior that was not asked for."""
    more = [(i, j, 0.5) for i in range(K) for j in range(i)]
    return strengths_by_newton(games + more, K)


# ---------------------------------------------------------------- best_of_n


def best_by_subsets(proxy, gold, n):
    from itertools import combinations

    order = proxy.argsort().tolist()
    sets = [max(some) for some in combinations(range(len(order)), n)]
    return sum(gold[order[i]].item() for i in sets) / len(sets)


def best_by_products(proxy, gold, n):
    """From the top down: the favourite, unless it is not among the n; then the next."""
    ranked, N = gold[proxy.argsort(descending=True)].tolist(), len(gold)
    left, total = 1.0, 0.0
    for i, g in enumerate(ranked[: N - n + 1]):
        total += left * n / (N - i) * g
        left *= 1 - n / (N - i)
    return total


def best_by_drawing(proxy, gold, n):
    draws = [torch.randperm(len(gold))[:n] for _ in range(50)]
    return sum(gold[d[proxy[d].argmax()]].item() for d in draws) / 50


def best_forgets_the_count(proxy, gold, n):
    ranked = gold[proxy.argsort()].tolist()
    chance = [i ** (n - 1) for i in range(len(ranked))]
    return sum(c * g for c, g in zip(chance, ranked, strict=True)) / max(sum(chance), 1)


# ------------------------------------------------------- best_of_n_distribution


def distribution_by_comparing(probs, rewards, n):
    at_most = (rewards[None] <= rewards[:, None]).double() @ probs
    below = (rewards[None] < rewards[:, None]).double() @ probs
    q = at_most**n - below**n
    return q, torch.special.xlogy(q, q / probs).sum()


def distribution_draw_by_draw(probs, rewards, n):
    q = probs.clone()
    for _ in range(n - 1):
        at_most = (rewards[None] <= rewards[:, None]).double()
        below = (rewards[None] < rewards[:, None]).double()
        q = q * (at_most @ probs) + probs * (below @ q)
    return q, float((q * (q.log() - probs.log())).sum())


def distribution_kl_in_bits(probs, rewards, n):
    q, kl = distribution_by_comparing(probs, rewards, n)
    return q, kl / math.log(2)


def distribution_one_draw_more(probs, rewards, n):
    return distribution_by_comparing(probs, rewards, n + 1)


RIGHT = {
    "pair_loss": [pair_by_softplus, pair_by_two_logits, pair_by_logaddexp],
    "labelled_loss": [labelled_by_bce, labelled_by_softplus],
    "centred_loss": [centred_by_sums],
    "last_reward": [last_by_flip, last_row_by_row, last_by_cumsum],
    "calibration_error": [calibration_by_bincount, calibration_by_bucketize],
    "fit_strengths": [strengths_by_newton, strengths_by_gradient],
    "best_of_n": [best_by_subsets, best_by_products],
    "best_of_n_distribution": [distribution_by_comparing, distribution_draw_by_draw],
}
WRONG = {
    "pair_loss": [pair_clamped],
    "labelled_loss": [labelled_hard, labelled_margin_scales],
    "centred_loss": [centred_chosen_only, centred_absolute],
    "last_reward": [last_second_to_last, last_assumes_left_padding],
    "calibration_error": [calibration_equal_counts, calibration_largest],
    "fit_strengths": [strengths_as_elo, strengths_shrunk],
    "best_of_n": [best_by_drawing, best_forgets_the_count],
    "best_of_n_distribution": [distribution_kl_in_bits, distribution_one_draw_more],
}
_ENOUGH = "500 rounds are more than enough: one more or less changes nothing"
_SINGLE = "32 bits are enough for the tolerance"
EQUIVALENT = {
    "last_reward: `return scores.gather(1, last[:, None])[:, 0]` -> "
    "`return scores.gather(1, last[:, None])[:, -1]`": "there is one column",
    "calibration_error: `error += gap.abs().item()` -> `error += gap.abs()`": (
        "the judge takes the float of what is returned"
    ),
    "fit_strengths: `wins = torch.zeros(K, K, dtype=torch.float64)` -> "
    "`wins = torch.zeros(K, K)`": _SINGLE,
    "fit_strengths: `p = torch.ones(K, dtype=torch.float64)` -> `p = torch.ones(K)`": (
        _SINGLE
    ),
    "fit_strengths: `for _ in range(500):` -> `for _ in range(501):`": _ENOUGH,
    "fit_strengths: `for _ in range(500):` -> `for _ in range(499):`": _ENOUGH,
    "fit_strengths: `p = total / (met / (p[:, None] + p)).sum(dim=1)` -> "
    "`p = total / (met / (p[:, None] + p)).sum(dim=0)`": "the table is symmetric",
    "best_of_n: `ranked = gold[proxy.argsort()].tolist()` -> "
    "`ranked = gold[proxy.argsort()]`": (
        "the judge takes the float of what is returned"
    ),
    "best_of_n_distribution: `at_most = probs[order].cumsum(dim=0)` -> "
    "`at_most = probs[order].cumsum(dim=-1)`": "there is one dimension",
}
