"""What goes wrong in the exercise `reward_model`, and the hint for each."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from posttrain.checks.task import Mistake

# ---------------------------------------------------------------- pair_loss


def pair_log_of_sigmoid(chosen, rejected):
    return -torch.log(torch.sigmoid(chosen - rejected)).mean()


def pair_log_of_exp(chosen, rejected):
    return torch.log(1 + torch.exp(rejected - chosen)).mean()


def pair_with_epsilon(chosen, rejected):
    return -torch.log(torch.sigmoid(chosen - rejected) + 1e-8).mean()


def pair_sign_swapped(chosen, rejected):
    return -F.logsigmoid(rejected - chosen).mean()


def pair_not_negated(chosen, rejected):
    return F.logsigmoid(chosen - rejected).mean()


def pair_sum(chosen, rejected):
    return -F.logsigmoid(chosen - rejected).sum()


def pair_each(chosen, rejected):
    return -F.logsigmoid(chosen - rejected)


def pair_probability(chosen, rejected):
    return 1 - torch.sigmoid(chosen - rejected).mean()


def pair_of_means(chosen, rejected):
    return -F.logsigmoid(chosen.mean() - rejected.mean())


def pair_hinge(chosen, rejected):
    return F.relu(1 - (chosen - rejected)).mean()


# ---------------------------------------------------------------- labelled_loss


def cross_entropy(d, target):
    return -(target * F.logsigmoid(d) + (1 - target) * F.logsigmoid(-d)).mean()


def labelled_margin_added(chosen, rejected, margin, target):
    return cross_entropy(chosen - rejected + margin, target)


def labelled_margin_outside(chosen, rejected, margin, target):
    return cross_entropy(chosen - rejected, target) + margin.mean()


def labelled_margin_ignored(chosen, rejected, margin, target):
    return cross_entropy(chosen - rejected, target)


def labelled_margin_on_the_chosen_term_only(chosen, rejected, margin, target):
    d = chosen - rejected
    losses = target * F.logsigmoid(d - margin) + (1 - target) * F.logsigmoid(-d)
    return -losses.mean()


def labelled_margin_keeps_its_side(chosen, rejected, margin, target):
    d = chosen - rejected
    other = (1 - target) * F.logsigmoid(-d - margin)
    return -(target * F.logsigmoid(d - margin) + other).mean()


def labelled_target_swapped(chosen, rejected, margin, target):
    return cross_entropy(chosen - rejected - margin, 1 - target)


def labelled_target_ignored(chosen, rejected, margin, target):
    return cross_entropy(chosen - rejected - margin, torch.ones_like(target))


def labelled_ties_dropped(chosen, rejected, margin, target):
    decided = target != 0.5
    d = (chosen - rejected - margin)[decided]
    if not len(d):
        return (chosen - rejected).sum() * 0
    return cross_entropy(d, target[decided])


def labelled_weighs_only(chosen, rejected, margin, target):
    return -(target * F.logsigmoid(chosen - rejected - margin)).mean()


def labelled_one_minus(chosen, rejected, margin, target):
    p = torch.sigmoid(chosen - rejected - margin)
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean()


# ---------------------------------------------------------------- centred_loss


def centred_difference(chosen, rejected, coefficient):
    plain = -F.logsigmoid(chosen - rejected).mean()
    return plain + coefficient * ((chosen - rejected) ** 2).mean()


def centred_square_of_mean(chosen, rejected, coefficient):
    plain = -F.logsigmoid(chosen - rejected).mean()
    return plain + coefficient * (chosen + rejected).mean() ** 2


def centred_each(chosen, rejected, coefficient):
    plain = -F.logsigmoid(chosen - rejected).mean()
    return plain + coefficient * (chosen**2 + rejected**2).mean()


def centred_half(chosen, rejected, coefficient):
    plain = -F.logsigmoid(chosen - rejected).mean()
    return plain + coefficient * (((chosen + rejected) / 2) ** 2).mean()


def centred_not_squared(chosen, rejected, coefficient):
    plain = -F.logsigmoid(chosen - rejected).mean()
    return plain + coefficient * (chosen + rejected).mean()


def centred_subtracts(chosen, rejected, coefficient):
    plain = -F.logsigmoid(chosen - rejected).mean()
    return plain - coefficient * ((chosen + rejected) ** 2).mean()


def centred_sum(chosen, rejected, coefficient):
    plain = -F.logsigmoid(chosen - rejected).mean()
    return plain + coefficient * ((chosen + rejected) ** 2).sum()


def centred_detached(chosen, rejected, coefficient):
    plain = -F.logsigmoid(chosen - rejected).mean()
    return plain + coefficient * ((chosen + rejected).detach() ** 2).mean()


# ---------------------------------------------------------------- last_reward


def last_column(scores, mask):
    return scores[:, -1]


def last_by_length(scores, mask):
    lengths = mask.sum(dim=1)
    return scores.gather(1, lengths[:, None] - 1)[:, 0]


def last_one_beyond(scores, mask):
    T = mask.shape[1]
    lengths = (mask * torch.arange(1, T + 1)).amax(dim=1).clamp(max=T - 1)
    return scores.gather(1, lengths[:, None])[:, 0]


def last_first_token(scores, mask):
    return scores.gather(1, mask.int().argmax(dim=1)[:, None])[:, 0]


def last_mean(scores, mask):
    return (scores * mask).sum(dim=1) / mask.sum(dim=1)


def last_largest(scores, mask):
    return scores.masked_fill(~mask, -torch.inf).amax(dim=1)


def last_index_broadcasts(scores, mask):
    last = (mask * torch.arange(mask.shape[1])).argmax(dim=1)
    return scores[:, last]


def last_that_is_not_zero(scores, mask):
    places = torch.arange(mask.shape[1])
    last = (places * (scores * mask != 0)).argmax(dim=1)
    return scores.gather(1, last[:, None])[:, 0]


def last_argmin(scores, mask):
    """The token before the first padding: argmin finds none where there is none."""
    return scores.gather(1, (mask.int().argmin(dim=1) - 1)[:, None] % mask.shape[1])[
        :, 0
    ]


# ---------------------------------------------------------------- calibration_error


def bin_of(probabilities, bins):
    return (probabilities * bins).long().clamp(0, bins - 1)


def share(here):
    return here.double().mean().item()


def error_over(probabilities, wins, bins, weigh=share, gap=torch.abs, place=None):
    place = bin_of(probabilities, bins) if place is None else place
    total = 0.0
    for b in range(bins):
        here = place == b
        if here.any():
            difference = probabilities[here].mean() - wins[here].mean()
            total += weigh(here) * gap(difference).item()
    return total


def calibration_unweighted(probabilities, wins, bins):
    return error_over(probabilities, wins, bins, lambda here: 1 / bins)


def calibration_over_filled_bins(probabilities, wins, bins):
    filled = len(bin_of(probabilities, bins).unique())
    return error_over(probabilities, wins, bins, lambda here: 1 / filled)


def calibration_signed(probabilities, wins, bins):
    return error_over(probabilities, wins, bins, gap=lambda x: x)


def calibration_squared(probabilities, wins, bins):
    return error_over(probabilities, wins, bins, gap=torch.square)


def calibration_per_pair(probabilities, wins, bins):
    return (probabilities - wins).abs().mean().item()


def calibration_one_bin(probabilities, wins, bins):
    return (probabilities.mean() - wins.mean()).abs().item()


def calibration_bin_middle(probabilities, wins, bins):
    place, total = bin_of(probabilities, bins), 0.0
    for b in range(bins):
        here = place == b
        if here.any():
            middle = (b + 0.5) / bins
            total += here.double().mean().item() * abs(
                middle - wins[here].mean().item()
            )
    return total


def calibration_loses_one(probabilities, wins, bins):
    place = (probabilities * bins).long()
    return error_over(probabilities, wins, bins, place=place)


def calibration_upper_edges(probabilities, wins, bins):
    place = (probabilities * bins).ceil().long().sub(1).clamp(min=0)
    return error_over(probabilities, wins, bins, place=place)


def calibration_ties_dropped(probabilities, wins, bins):
    decided = wins != 0.5
    if not decided.any():
        return 0.0
    return error_over(probabilities[decided], wins[decided], bins)


def calibration_ties_lost(probabilities, wins, bins):
    return error_over(probabilities, (wins > 0.5).double(), bins)


# ---------------------------------------------------------------- fit_strengths


def table(games, K, tie=0.5):
    wins = torch.zeros(K, K, dtype=torch.float64)
    for i, j, result in games:
        if result == 0.5:
            wins[i, j] += tie
            wins[j, i] += tie
        elif result == 1:
            wins[i, j] += 1
        else:
            wins[j, i] += 1
    return wins


def zermelo(wins, steps=500):
    games, total = wins + wins.T, wins.sum(dim=1)
    p = torch.ones(len(wins), dtype=torch.float64)
    for _ in range(steps):
        p = total / (games / (p[:, None] + p)).sum(dim=1)
        p = p / p.log().mean().exp()
    return p


def strengths_ties_dropped(games, K):
    return zermelo(table(games, K, tie=0.0)).log()


def strengths_ties_whole(games, K):
    return zermelo(table(games, K, tie=1.0)).log()


def strengths_tie_is_a_loss(games, K):
    decided = [(i, j, float(result == 1)) for i, j, result in games]
    return zermelo(table(decided, K)).log()


def strengths_loss_forgotten(games, K):
    return zermelo(table([g for g in games if g[2] > 0], K)).log()


def strengths_not_logged(games, K):
    return zermelo(table(games, K))


def strengths_first_is_zero(games, K):
    s = zermelo(table(games, K)).log()
    return s - s[0]


def strengths_of_shares(games, K):
    wins = table(games, K)
    share = wins.sum(1) / (wins.sum(1) + wins.sum(0))
    return torch.logit(share) - torch.logit(share).mean()


def strengths_swapped(games, K):
    return zermelo(table(games, K).T).log()


def strengths_after_one_round(games, K):
    return zermelo(table(games, K), steps=1).log()


# ---------------------------------------------------------------- best_of_n


def best_of_the_first_n(proxy, gold, n):
    return gold[proxy[:n].argmax()].item()


def best_in_groups(proxy, gold, n):
    found = [
        gold[i : i + n][proxy[i : i + n].argmax()].item()
        for i in range(0, len(gold) - n + 1, n)
    ]
    return sum(found) / len(found)


def best_with_replacement(proxy, gold, n):
    N, ranked = len(gold), gold[proxy.argsort()]
    chance = [((i + 1) / N) ** n - (i / N) ** n for i in range(N)]
    return sum(c * g for c, g in zip(chance, ranked.tolist(), strict=True))


def best_by_gold(proxy, gold, n):
    return best_ranked(gold.sort().values, n)


def best_proxy(proxy, gold, n):
    return best_ranked(proxy.sort().values, n)


def best_ranked(ranked, n, below=0):
    N = len(ranked)
    chance = [math.comb(i + below, n - 1 + below) / math.comb(N, n) for i in range(N)]
    return sum(c * g for c, g in zip(chance, ranked.tolist(), strict=True))


def best_upside_down(proxy, gold, n):
    return best_ranked(gold[proxy.argsort(descending=True)], n)


def best_of_subsets_up_to(proxy, gold, n):
    return best_ranked(gold[proxy.argsort()], n, below=1)


def best_of_all(proxy, gold, n):
    return gold[proxy.argmax()].item()


# ------------------------------------------------------- best_of_n_distribution


def kl_of(q, p):
    return torch.special.xlogy(q, q / p).sum()


def ranked_sums(probs, rewards):
    order = rewards.argsort()
    at_most = probs[order].cumsum(0)
    return order, at_most, at_most - probs[order]


def distribution_power(probs, rewards, n):
    order, at_most, below = ranked_sums(probs, rewards)
    q = torch.empty_like(probs)
    q[order] = at_most**n - below**n
    return q


def distribution_closed_form_kl(probs, rewards, n):
    return distribution_power(probs, rewards, n), math.log(n) - (n - 1) / n


def distribution_log_n(probs, rewards, n):
    return distribution_power(probs, rewards, n), math.log(n)


def distribution_reversed_kl(probs, rewards, n):
    q = distribution_power(probs, rewards, n)
    return q, kl_of(probs, q)


def distribution_unsorted(probs, rewards, n):
    _, at_most, below = ranked_sums(probs, rewards)
    q = at_most**n - below**n
    return q, kl_of(q, probs)


def distribution_worst(probs, rewards, n):
    q = distribution_power(probs, -rewards, n)
    return q, kl_of(q, probs)


def distribution_exactly_once(probs, rewards, n):
    """One draw is the favourite and the others are below: forgets repeats."""
    order, _, below = ranked_sums(probs, rewards)
    q = torch.empty_like(probs)
    q[order] = n * probs[order] * below ** (n - 1)
    q = q / q.sum()
    return q, kl_of(q, probs)


def distribution_tilted(probs, rewards, n):
    q = probs * rewards.exp()
    q = q / q.sum()
    return q, kl_of(q, probs)


def distribution_at_most(probs, rewards, n):
    order, at_most, _ = ranked_sums(probs, rewards)
    q = torch.empty_like(probs)
    q[order] = at_most**n
    q = q / q.sum()
    return q, kl_of(q, probs)


_OVERFLOW = (
    "exp overflows where the rejected reply is far ahead, so σ is 0, and its log -inf, "
    "with no gradient. Use `F.logsigmoid`, which works on the difference itself."
)

MISTAKES = {
    "pair_loss": (
        Mistake(pair_log_of_sigmoid, _OVERFLOW),
        Mistake(pair_log_of_exp, _OVERFLOW),
        Mistake(
            pair_with_epsilon,
            "an epsilon inside the logarithm caps the loss and kills the gradient just "
            "where the model is most wrong. Use `F.logsigmoid`.",
        ),
        Mistake(
            pair_sign_swapped,
            "this trains the model to prefer what was rejected: the difference is "
            "chosen minus rejected.",
        ),
        Mistake(
            pair_not_negated,
            "a log-likelihood is to be raised, a loss lowered: the minus is missing.",
        ),
        Mistake(
            pair_sum,
            "the loss is a mean over pairs: with a sum, the learning rate would depend "
            "on the batch.",
        ),
        Mistake(pair_each, "one number is due: the mean over the pairs."),
        Mistake(
            pair_probability,
            "this is one minus the probability. The likelihood of a label is maximised "
            "through its *logarithm*, whose gradient does not vanish on a bad mistake.",
        ),
        Mistake(
            pair_of_means,
            "the mean comes last: replies are compared pair by pair, then averaged.",
        ),
        Mistake(
            pair_hinge,
            "this is the hinge loss; Bradley and Terry's model gives -log σ.",
        ),
    ),
    "labelled_loss": (
        Mistake(
            labelled_margin_added,
            "the margin is on the wrong side: it is *taken off* the difference, so "
            "that the chosen reply has to lead by more for the same loss.",
        ),
        Mistake(
            labelled_margin_outside,
            "outside of σ, the margin is a constant: it changes the loss and no "
            "gradient. It belongs inside.",
        ),
        Mistake(labelled_margin_ignored, "the margin is not used."),
        Mistake(
            labelled_margin_on_the_chosen_term_only,
            "the margin belongs to d, and both terms use the same d.",
        ),
        Mistake(
            labelled_margin_keeps_its_side,
            "the second term is log σ(-d) with the whole of d turned round: "
            "-d = rejected - chosen + margin.",
        ),
        Mistake(
            labelled_target_swapped,
            "the target is the probability that *chosen* is preferred: it weighs "
            "log σ(d), and 1 - target weighs log σ(-d).",
        ),
        Mistake(
            labelled_target_ignored,
            "the target is not used: a tie would be trained as a win.",
        ),
        Mistake(
            labelled_ties_dropped,
            "ties were dropped. A tie says that the two are worth alike, which is as "
            "good a label as any: it pulls d to 0.",
        ),
        Mistake(
            labelled_weighs_only,
            "this only weighs the pair. The term (1 - target) log σ(-d) is missing; "
            "without it d grows without end even for a tie.",
        ),
        Mistake(
            labelled_one_minus,
            "the log of σ, or of 1 - σ, is -inf for a large difference. Use "
            "`F.logsigmoid(d)` and `F.logsigmoid(-d)`.",
        ),
    ),
    "centred_loss": (
        Mistake(
            centred_difference,
            "this punishes the *difference*, which is what the loss is to learn. What "
            "is left open is the sum.",
        ),
        Mistake(
            centred_square_of_mean,
            "the square of the mean lets one pair far above make good for one far "
            "below. Square first, then average.",
        ),
        Mistake(
            centred_each,
            "squares of each reward punish differences, too: c² + r² is half of "
            "(c + r)² + (c - r)².",
        ),
        Mistake(centred_half, "the penalty is on the sum, not on the mean of the two."),
        Mistake(
            centred_not_squared,
            "without a square the penalty has no least value: it pulls all rewards to "
            "minus infinity.",
        ),
        Mistake(centred_subtracts, "a penalty is added to a loss."),
        Mistake(centred_sum, "average the penalty over the pairs, like the loss."),
        Mistake(
            centred_detached,
            "the penalty was cut off from the graph: it changes the loss and trains "
            "nothing.",
        ),
    ),
    "last_reward": (
        Mistake(
            last_column,
            "the last column is padding for all but the longest row: the reward of a "
            "reply would depend on its company in the batch.",
        ),
        Mistake(
            last_by_length,
            "the number of real tokens is the place of the last one only where padding "
            "is on the right. Find the last True of each row.",
        ),
        Mistake(
            last_that_is_not_zero,
            "a score of 0 is a score: look for the last True of the mask, not for the "
            "last number that is not 0.",
        ),
        Mistake(
            last_one_beyond,
            "one too far: the place behind the last token holds padding.",
        ),
        Mistake(
            last_first_token,
            "argmax of the mask finds the first real token, which has seen nothing.",
        ),
        Mistake(
            last_mean,
            "a mean over all tokens reads places that have not seen the whole reply.",
        ),
        Mistake(last_largest, "the last score is due, not the largest."),
        Mistake(
            last_index_broadcasts,
            "`scores[:, last]` takes all those columns for every row, (B, B). Use "
            "`gather`, or index with `torch.arange(B)` as well.",
        ),
        Mistake(
            last_argmin,
            "the first padding may stand before the reply, or there may be none. Find "
            "the last True of each row instead.",
        ),
    ),
    "calibration_error": (
        Mistake(
            calibration_unweighted,
            "each bin counts by how many pairs it has, not alike.",
        ),
        Mistake(
            calibration_over_filled_bins,
            "each bin counts by how many pairs it has, not alike.",
        ),
        Mistake(
            calibration_signed,
            "too sure in one bin and too timid in another cancel without the absolute "
            "value.",
        ),
        Mistake(calibration_squared, "the absolute difference is due, not its square."),
        Mistake(
            calibration_per_pair,
            "a single pair is won or lost: |p - won| is large for a perfectly "
            "calibrated model, too. Average within each bin first.",
        ),
        Mistake(
            calibration_one_bin,
            "the mean over all pairs hides everything: compare bin by bin.",
        ),
        Mistake(
            calibration_bin_middle,
            "compare with the mean of the predictions in the bin, not with its middle.",
        ),
        Mistake(
            calibration_loses_one,
            "a probability of exactly 1 falls out of the last bin. Clamp the index.",
        ),
        Mistake(
            calibration_upper_edges,
            "a bin has its lower edge, not its upper one: of 4 bins, 0.25 is in the "
            "second.",
        ),
        Mistake(
            calibration_ties_dropped,
            "ties were dropped: half a win is what they are.",
        ),
        Mistake(
            calibration_ties_lost,
            "a tie is half a win, not a loss.",
        ),
    ),
    "fit_strengths": (
        Mistake(
            strengths_ties_dropped,
            "ties were dropped silently: two that always tie are alike, which is "
            "information. Count a tie as half a win for each.",
        ),
        Mistake(
            strengths_ties_whole,
            "a tie is one game: half a win for each, not a whole one.",
        ),
        Mistake(
            strengths_tie_is_a_loss,
            "a tie is half a win for each; here it counts as a loss of the first.",
        ),
        Mistake(
            strengths_loss_forgotten,
            "a result of 0 is a win for the second player.",
        ),
        Mistake(
            strengths_not_logged,
            "these are p = exp(s). The strengths are their logarithms.",
        ),
        Mistake(
            strengths_first_is_zero,
            "the differences are right. Shift all strengths so that their mean is 0.",
        ),
        Mistake(
            strengths_of_shares,
            "the share of games won ignores *against whom*. Fit all together.",
        ),
        Mistake(
            strengths_swapped,
            "the order is upside down: a winner must come out stronger.",
        ),
        Mistake(
            strengths_after_one_round,
            "one round is not enough: go on until nothing changes.",
        ),
    ),
    "best_of_n": (
        Mistake(
            best_of_the_first_n,
            "that is one draw of n among many. Average over *all* subsets of size n.",
        ),
        Mistake(
            best_in_groups,
            "groups side by side are a few of the subsets, and a rest is left out: "
            "unbiased at best, and noisy. Average over all of them.",
        ),
        Mistake(
            best_with_replacement,
            "(i/N)^n draws *with* replacement: the same reply may be drawn twice, and "
            "the estimate is biased. Count subsets: C(i - 1, n - 1) of C(N, n).",
        ),
        Mistake(
            best_by_gold,
            "this picks by the gold. The proxy chooses, the gold is what you get.",
        ),
        Mistake(
            best_proxy,
            "this is how high the proxy rises. Return the gold of what it chooses.",
        ),
        Mistake(
            best_upside_down,
            "this is the worst of n: the reply of the *highest* proxy is chosen.",
        ),
        Mistake(
            best_of_subsets_up_to,
            "the other n - 1 come from the i - 1 replies that are worse.",
        ),
        Mistake(
            best_of_all,
            "this is the best of all N: it does not depend on n.",
        ),
    ),
    "best_of_n_distribution": (
        Mistake(
            distribution_closed_form_kl,
            "log n - (n - 1)/n holds where no reply is ever drawn twice; with few "
            "replies it is only an upper bound. Sum q log(q / p).",
        ),
        Mistake(
            distribution_log_n,
            "log n is a looser bound. The KL is the sum of q log(q / p).",
        ),
        Mistake(
            distribution_reversed_kl,
            "the KL is the wrong way round: how far the *new* distribution is from the "
            "policy is the sum of q log(q / p).",
        ),
        Mistake(
            distribution_unsorted,
            "the probabilities are in the order of the rewards. Put them back.",
        ),
        Mistake(
            distribution_worst,
            "this is the worst of n: sum up the replies with *at most* this reward.",
        ),
        Mistake(
            distribution_exactly_once,
            "the favourite may be drawn more than once. Take "
            "P(all at most x) - P(all below x).",
        ),
        Mistake(
            distribution_tilted,
            "that is the optimum of a KL-penalised reward. Best-of-n knows only the "
            "order of the rewards.",
        ),
        Mistake(
            distribution_at_most,
            "F(x)^n is the probability that all draws are at most x. Take off that all "
            "are below x.",
        ),
    ),
}
