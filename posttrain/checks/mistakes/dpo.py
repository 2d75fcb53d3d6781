"""What goes wrong in the exercise `dpo`, and the hint for each.

Each mistake is a whole answer. Where several differ from a right answer in one place
only, they share it as a base and change that place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from posttrain.checks.task import Mistake

# ---------------------------------------------------------- sequence_logprobs


def of_next_tokens(logits, tokens):
    """log p of tokens 1 ... T - 1: (B, T - 1)."""
    table = logits[:, :-1].log_softmax(-1)
    return table.gather(-1, tokens[:, 1:, None])[..., 0]


def sequence_not_shifted(logits, tokens, mask):
    each = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    return (each * mask).sum(1)


def sequence_mask_not_shifted(logits, tokens, mask):
    return (of_next_tokens(logits, tokens) * mask[:, :-1]).sum(1)


def sequence_with_prompt(logits, tokens, mask):
    return of_next_tokens(logits, tokens).sum(1)


def sequence_with_padding(logits, tokens, mask):
    counts = mask[:, 1:].cumsum(1) > 0
    return (of_next_tokens(logits, tokens) * counts).sum(1)


def sequence_mean(logits, tokens, mask):
    counts = mask[:, 1:]
    return (of_next_tokens(logits, tokens) * counts).sum(1) / counts.sum(1)


def sequence_log_of_softmax(logits, tokens, mask):
    table = logits[:, :-1].softmax(-1).log()
    each = table.gather(-1, tokens[:, 1:, None])[..., 0]
    return each.masked_fill(~mask[:, 1:], 0.0).sum(1)


def sequence_raw_logits(logits, tokens, mask):
    each = logits[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    return (each * mask[:, 1:]).sum(1)


# ------------------------------------------------------------- optimal_policy


def worth_of(policy, ref, rewards, beta):
    """A policy and its reward less beta KL; a reply that is never given counts 0."""
    kl = torch.where(policy > 0, policy * (policy / ref).log(), 0.0).sum(-1)
    return policy, (policy * rewards).sum(-1) - beta * kl


def best(ref, rewards, beta):
    return torch.softmax(ref.log() + rewards / beta, -1)


def policy_times_beta(ref, rewards, beta):
    policy = torch.softmax(ref.log() + beta * rewards, -1)
    return worth_of(policy, ref, rewards, beta)


def policy_without_reference(ref, rewards, beta):
    return worth_of(torch.softmax(rewards / beta, -1), ref, rewards, beta)


def policy_not_normalised(ref, rewards, beta):
    return worth_of(ref * torch.exp(rewards / beta), ref, rewards, beta)


def policy_overflows(ref, rewards, beta):
    share = ref * torch.exp(rewards / beta)
    z = share.sum(-1)
    return share / z[..., None], beta * z.log()


def policy_over_all_prompts(ref, rewards, beta):
    exponents = rewards / beta
    share = ref * (exponents - exponents.amax(-1, keepdim=True)).exp()
    return worth_of(share / share.sum(), ref, rewards, beta)


def policy_largest_of_all_prompts(ref, rewards, beta):
    share = ref * ((rewards - rewards.max()) / beta).exp()
    z = share.sum(-1)
    return share / z[..., None], beta * z.log() + rewards.max()


def policy_adds_probabilities(ref, rewards, beta):
    return worth_of(torch.softmax(ref + rewards / beta, -1), ref, rewards, beta)


def worth_without_the_leash(ref, rewards, beta):
    policy = best(ref, rewards, beta)
    return policy, (policy * rewards).sum(-1)


def worth_of_kl_without_beta(ref, rewards, beta):
    return worth_of(best(ref, rewards, beta), ref, rewards, 1.0)


def worth_of_log_partition(ref, rewards, beta):
    exponents = ref.log() + rewards / beta
    return torch.softmax(exponents, -1), exponents.logsumexp(-1)


def worth_of_reverse_kl(ref, rewards, beta):
    policy = best(ref, rewards, beta)
    kl = torch.where(policy > 0, ref * (ref / policy).log(), 0.0).sum(-1)
    return policy, (policy * rewards).sum(-1) - beta * kl


def worth_of_never_said(ref, rewards, beta):
    policy = best(ref, rewards, beta)
    return policy, (policy * (rewards - beta * (policy / ref).log())).sum(-1)


def worth_of_all_prompts(ref, rewards, beta):
    policy, worth = worth_of(best(ref, rewards, beta), ref, rewards, beta)
    return policy, worth.mean()


# -------------------------------------------------------- rewards_from_policy


def rewards_turned_round(policy, ref, beta):
    return beta * (ref.log() - policy.log())


def rewards_over_beta(policy, ref, beta):
    return (policy.log() - ref.log()) / beta


def rewards_without_beta(policy, ref, beta):
    return policy.log() - ref.log()


def rewards_without_reference(policy, ref, beta):
    return beta * policy.log()


def rewards_of_ratio(policy, ref, beta):
    return beta * policy / ref


# ------------------------------------------------------------------ preference


def compared(rewards):
    return torch.sigmoid(rewards[..., :, None] - rewards[..., None, :])


def preference_turned_round(policy, ref, beta):
    return compared(beta * (policy.log() - ref.log())).mT


def preference_without_reference(policy, ref, beta):
    return compared(beta * policy.log())


def preference_without_beta(policy, ref, beta):
    return compared(policy.log() - ref.log())


def preference_over_beta(policy, ref, beta):
    return compared((policy.log() - ref.log()) / beta)


def preference_of_ratios(policy, ref, beta):
    return compared(beta * policy / ref)


def preference_by_probability(policy, ref, beta):
    """How much likelier the policy writes the one than the other."""
    return policy[..., :, None] / (policy[..., :, None] + policy[..., None, :])


def preference_normalised(policy, ref, beta):
    """A softmax over all replies, where only two are compared."""
    rewards = beta * (policy.log() - ref.log())
    return compared(rewards) / compared(rewards).sum(-1, keepdim=True)


# ------------------------------------------------------------------- dpo_loss


def mean_loss(margin, smoothing):
    right, turned = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    return ((1 - smoothing) * right + smoothing * turned).mean()


def loss_without_reference(pc, pr, rc, rr, beta, label_smoothing=0.0):
    return mean_loss(beta * (pc - pr), label_smoothing)


def loss_beta_on_one_side(pc, pr, rc, rr, beta, label_smoothing=0.0):
    rc, rr = rc.detach(), rr.detach()
    return mean_loss(beta * (pc - rc) - (pr - rr), label_smoothing)


def loss_swapped(pc, pr, rc, rr, beta, label_smoothing=0.0):
    rc, rr = rc.detach(), rr.detach()
    return mean_loss(beta * ((pr - rr) - (pc - rc)), label_smoothing)


def loss_log_of_sigmoid(pc, pr, rc, rr, beta, label_smoothing=0.0):
    margin = beta * ((pc - rc.detach()) - (pr - rr.detach()))
    right = -torch.log(torch.sigmoid(margin))
    if not label_smoothing:
        return right.mean()
    turned = -torch.log(torch.sigmoid(-margin))
    return ((1 - label_smoothing) * right + label_smoothing * turned).mean()


def loss_reference_learns(pc, pr, rc, rr, beta, label_smoothing=0.0):
    return mean_loss(beta * ((pc - rc) - (pr - rr)), label_smoothing)


def loss_summed(pc, pr, rc, rr, beta, label_smoothing=0.0):
    margin = beta * ((pc - rc.detach()) - (pr - rr.detach()))
    return mean_loss(margin, label_smoothing) * len(pc)


def loss_over_beta(pc, pr, rc, rr, beta, label_smoothing=0.0):
    return mean_loss(((pc - rc.detach()) - (pr - rr.detach())) / beta, label_smoothing)


def loss_reference_added(pc, pr, rc, rr, beta, label_smoothing=0.0):
    margin = beta * ((pc - pr) + (rc.detach() - rr.detach()))
    return mean_loss(margin, label_smoothing)


def loss_of_the_mean_margin(pc, pr, rc, rr, beta, label_smoothing=0.0):
    margin = beta * ((pc - rc.detach()) - (pr - rr.detach()))
    return mean_loss(margin.mean(), label_smoothing)


def loss_ignores_smoothing(pc, pr, rc, rr, beta, label_smoothing=0.0):
    return mean_loss(beta * ((pc - rc.detach()) - (pr - rr.detach())), 0.0)


def loss_smooths_the_margin(pc, pr, rc, rr, beta, label_smoothing=0.0):
    margin = beta * ((pc - rc.detach()) - (pr - rr.detach()))
    return mean_loss((1 - 2 * label_smoothing) * margin, 0.0)


# --------------------------------------------------------------- dpo_gradient


def margin_of(pc, pr, rc, rr, beta):
    return beta * ((pc - rc) - (pr - rr))


def gradient_of_the_right_ones(pc, pr, rc, rr, beta):
    weight = beta * torch.sigmoid(margin_of(pc, pr, rc, rr, beta)) / len(pc)
    return -weight, weight


def gradient_without_beta(pc, pr, rc, rr, beta):
    weight = torch.sigmoid(-margin_of(pc, pr, rc, rr, beta)) / len(pc)
    return -weight, weight


def gradient_upwards(pc, pr, rc, rr, beta):
    weight = beta * torch.sigmoid(-margin_of(pc, pr, rc, rr, beta)) / len(pc)
    return weight, -weight


def gradient_summed(pc, pr, rc, rr, beta):
    weight = beta * torch.sigmoid(-margin_of(pc, pr, rc, rr, beta))
    return -weight, weight


def gradient_both_the_same(pc, pr, rc, rr, beta):
    weight = beta * torch.sigmoid(-margin_of(pc, pr, rc, rr, beta)) / len(pc)
    return -weight, -weight


def gradient_of_raw_margin(pc, pr, rc, rr, beta):
    weight = beta * torch.sigmoid(-((pc - rc) - (pr - rr))) / len(pc)
    return -weight, weight


def gradient_without_reference(pc, pr, rc, rr, beta):
    weight = beta * torch.sigmoid(-beta * (pc - pr)) / len(pc)
    return -weight, weight


# ------------------------------------------------------------------- ipo_loss


def ipo_gap(pc, pr, rc, rr, n, m):
    return (pc - rc) / n - (pr - rr) / m


def ipo_of_sums(pc, pr, rc, rr, n, m, beta):
    return ((pc - rc) - (pr - rr) - 1 / (2 * beta)).square().mean()


def ipo_target_one_over_beta(pc, pr, rc, rr, n, m, beta):
    return (ipo_gap(pc, pr, rc, rr, n, m) - 1 / beta).square().mean()


def ipo_beta_inside(pc, pr, rc, rr, n, m, beta):
    return (beta * ipo_gap(pc, pr, rc, rr, n, m) - 0.5).square().mean()


def ipo_target_half_beta(pc, pr, rc, rr, n, m, beta):
    return (ipo_gap(pc, pr, rc, rr, n, m) - beta / 2).square().mean()


def ipo_lengths_swapped(pc, pr, rc, rr, n, m, beta):
    return (ipo_gap(pc, pr, rc, rr, m, n) - 1 / (2 * beta)).square().mean()


def ipo_one_length(pc, pr, rc, rr, n, m, beta):
    gap = ((pc - rc) - (pr - rr)) / (n + m)
    return (gap - 1 / (2 * beta)).square().mean()


def ipo_one_sided(pc, pr, rc, rr, n, m, beta):
    off = 1 / (2 * beta) - ipo_gap(pc, pr, rc, rr, n, m)
    return off.clamp(min=0).square().mean()


# ------------------------------------------------------------------ train_dpo


class Training:
    """A right answer, cut into the places where each mistake goes wrong."""

    def __call__(self, model, reference, chosen, rejected, logprobs, loss_of, lr, n):
        self.logprobs, self.pairs, self.losses = logprobs, (chosen, rejected), []
        self.modes(model, reference)
        for _ in range(n):
            ours = [logprobs(model, *side) for side in self.pairs]
            loss = loss_of(*ours, *self.theirs(model, reference))
            self.forget(model)
            loss.backward()
            self.update(model, reference, lr)
            self.losses.append(self.noted(loss, model, reference, loss_of))
        return self.losses

    def modes(self, model, reference):
        model.train()
        reference.eval()

    def theirs(self, model, reference):
        with torch.no_grad():
            return [self.logprobs(reference, *side) for side in self.pairs]

    def forget(self, model):
        model.zero_grad()

    @torch.no_grad()
    def update(self, model, reference, lr):
        for p in model.parameters():
            p -= lr * p.grad

    def noted(self, loss, model, reference, loss_of):
        return loss.item()


class TrainingWithoutZeroGrad(Training):
    def forget(self, model):
        pass


class TrainingReferenceInTrainMode(Training):
    def modes(self, model, reference):
        model.train()


class TrainingModelInEvalMode(Training):
    def modes(self, model, reference):
        reference.eval()


class TrainingReferenceKeepsGradient(Training):
    def theirs(self, model, reference):
        return [self.logprobs(reference, *side) for side in self.pairs]


class TrainingReferenceFollows(Training):
    def update(self, model, reference, lr):
        super().update(model, reference, lr)
        reference.load_state_dict(model.state_dict())


class TrainingModelAsReference(Training):
    def theirs(self, model, reference):
        with torch.no_grad():
            return [self.logprobs(model, *side) for side in self.pairs]


class TrainingUphill(Training):
    @torch.no_grad()
    def update(self, model, reference, lr):
        for p in model.parameters():
            p += lr * p.grad


class TrainingNotesTheLossAfter(Training):
    @torch.no_grad()
    def noted(self, loss, model, reference, loss_of):
        ours = [self.logprobs(model, *side) for side in self.pairs]
        return loss_of(*ours, *self.theirs(model, reference)).item()


class TrainingSwapsTheReplies(Training):
    def __call__(self, model, reference, chosen, rejected, *rest):
        return super().__call__(model, reference, rejected, chosen, *rest)


def train_without_zero_grad(*args):
    return TrainingWithoutZeroGrad()(*args)


def train_reference_in_train_mode(*args):
    return TrainingReferenceInTrainMode()(*args)


def train_model_in_eval_mode(*args):
    return TrainingModelInEvalMode()(*args)


def train_reference_keeps_gradient(*args):
    return TrainingReferenceKeepsGradient()(*args)


def train_reference_follows(*args):
    return TrainingReferenceFollows()(*args)


def train_model_as_reference(*args):
    return TrainingModelAsReference()(*args)


def train_uphill(*args):
    return TrainingUphill()(*args)


def train_notes_the_loss_after(*args):
    return TrainingNotesTheLossAfter()(*args)


def train_swaps_the_replies(*args):
    return TrainingSwapsTheReplies()(*args)


MISTAKES = {
    "sequence_logprobs": (
        Mistake(
            sequence_not_shifted,
            "the logits at position t predict token t + 1. You read the probability of "
            "token t from the logits at t, where the model has already seen it.",
        ),
        Mistake(
            sequence_mask_not_shifted,
            "the log-probabilities are shifted by one, and the mask is not. It marks "
            "*tokens*: the one predicted at t is token t + 1, so use mask[:, 1:].",
        ),
        Mistake(
            sequence_with_prompt,
            "every token counts, prompt and padding too. Only those of the completion "
            "do: where the mask is True.",
        ),
        Mistake(
            sequence_with_padding,
            "what follows the completion counts too. Padding is text that nobody "
            "wrote.",
        ),
        Mistake(
            sequence_mean,
            "that is the mean over the tokens. The probability of a completion is a "
            "product, so its logarithm is a *sum*; a mean would make a reply of two "
            "tokens weigh as much as one of two hundred.",
        ),
        Mistake(
            sequence_log_of_softmax,
            "softmax underflows to 0 for an unlikely token, and log 0 is -inf. Use "
            "log_softmax, which never leaves the logarithm.",
        ),
        Mistake(
            sequence_raw_logits,
            "these are logits. A log-probability is a logit minus the logsumexp of "
            "all.",
        ),
    ),
    "optimal_policy": (
        Mistake(
            policy_times_beta,
            "you multiply by beta. A large beta is a short leash: the exponent is "
            "rewards / beta, which goes to 0.",
        ),
        Mistake(
            policy_without_reference,
            "the reference is not used. For a large beta the policy must become the "
            "reference, not uniform.",
        ),
        Mistake(
            policy_not_normalised,
            "divide by Z, the sum of ref * exp(rewards / beta): a policy sums to 1.",
        ),
        Mistake(
            policy_overflows,
            "exp of a large number is inf, and inf / inf is NaN. Subtract the largest "
            "exponent first, or take a softmax of log ref + rewards / beta.",
        ),
        Mistake(
            policy_over_all_prompts,
            "Z belongs to one prompt: sum over the last dimension only.",
        ),
        Mistake(
            policy_largest_of_all_prompts,
            "the largest exponent is that of the whole batch, so a prompt with low "
            "rewards underflows to 0 / 0. Take it over the last dimension.",
        ),
        Mistake(
            policy_adds_probabilities,
            "inside an exponent the reference is there as its logarithm: "
            "ref * exp(x) = exp(log ref + x).",
        ),
        Mistake(
            worth_without_the_leash,
            "the policy is right, its worth is not: the objective also charges beta KL "
            "for leaving the reference.",
        ),
        Mistake(
            worth_of_kl_without_beta,
            "the policy is right; in its worth the KL divergence counts beta times.",
        ),
        Mistake(
            worth_of_log_partition,
            "log Z is the worth in units of beta: multiply it by beta.",
        ),
        Mistake(
            worth_of_reverse_kl,
            "the KL divergence in the objective is an expectation under the policy: "
            "log policy / ref, weighted by the policy, not by the reference.",
        ),
        Mistake(
            worth_of_never_said,
            "the worth is NaN where the reference never gives a reply: 0 log 0 counts "
            "0. Or do without the sum: see what beta log Z is.",
        ),
        Mistake(
            worth_of_all_prompts,
            "each prompt has a worth of its own: shape (...), without the last "
            "dimension.",
        ),
    ),
    "rewards_from_policy": (
        Mistake(
            rewards_turned_round,
            "the ratio is upside down. A reply that the policy likes more than the "
            "reference does has a positive reward.",
        ),
        Mistake(
            rewards_over_beta,
            "multiply by beta. With a large beta it takes a large reward to move the "
            "policy at all, so what moved it this far was large.",
        ),
        Mistake(rewards_without_beta, "the factor beta is missing."),
        Mistake(
            rewards_without_reference,
            "the reference is not used: a reply that was likely from the start has not "
            "been rewarded for it.",
        ),
        Mistake(rewards_of_ratio, "the *logarithm* of the ratio is missing."),
    ),
    "preference": (
        Mistake(
            preference_turned_round,
            "rows and columns are swapped: entry (i, j) is about reply i being "
            "preferred to reply j.",
        ),
        Mistake(
            preference_without_reference,
            "the reference is missing. A reply that was likely from the start has not "
            "been rewarded for it.",
        ),
        Mistake(
            preference_without_beta,
            "the rewards are beta times the log-ratios.",
        ),
        Mistake(preference_over_beta, "multiply by beta, do not divide."),
        Mistake(
            preference_of_ratios,
            "a reward is the *logarithm* of policy over reference, times beta.",
        ),
        Mistake(
            preference_by_probability,
            "that is how often the policy writes the one rather than the other. What "
            "is preferred depends on the rewards it stands for.",
        ),
        Mistake(
            preference_normalised,
            "two replies are compared at a time: entries (i, j) and (j, i) sum to 1, "
            "and a row sums to nothing in particular.",
        ),
    ),
    "dpo_loss": (
        Mistake(
            loss_without_reference,
            "the reference is not used. At the start, policy equal to reference, every "
            "margin is 0 and the loss is log 2.",
        ),
        Mistake(
            loss_beta_on_one_side,
            "beta multiplies the log-ratio of the chosen reply only. Both are rewards: "
            "both get it.",
        ),
        Mistake(
            loss_swapped,
            "chosen and rejected have changed places: this loss falls when the "
            "rejected reply gets more likely.",
        ),
        Mistake(
            loss_log_of_sigmoid,
            "the sigmoid of a very negative margin is 0, and log 0 is -inf. Use "
            "F.logsigmoid, which goes over to a straight line.",
        ),
        Mistake(
            loss_reference_learns,
            "the number is right, but a gradient flows into the reference's "
            "log-probabilities. It is fixed: detach them.",
        ),
        Mistake(loss_summed, "return the mean over the pairs, not the sum."),
        Mistake(loss_over_beta, "multiply the difference of log-ratios by beta."),
        Mistake(
            loss_reference_added,
            "the reference's log-probabilities are added. A log-ratio subtracts them.",
        ),
        Mistake(
            loss_of_the_mean_margin,
            "you average the margins and take one loss. Take the loss of each pair, "
            "then the mean: one very good pair must not pay for a bad one.",
        ),
        Mistake(loss_ignores_smoothing, "label_smoothing is not used."),
        Mistake(
            loss_smooths_the_margin,
            "label_smoothing mixes two *losses*, that of the label as it stands and "
            "that of the label turned round. It does not shrink the margin.",
        ),
    ),
    "dpo_gradient": (
        Mistake(
            gradient_of_the_right_ones,
            "this weight is large where the order is already right. It should be "
            "sigmoid(-margin): most for the pairs that are wrong.",
        ),
        Mistake(
            gradient_without_beta,
            "the factor beta is missing: the margin is beta times the log-ratios, and "
            "the chain rule brings it out in front.",
        ),
        Mistake(
            gradient_upwards,
            "the sign. The *loss* falls when the chosen log-probability rises, so its "
            "gradient there is negative.",
        ),
        Mistake(gradient_summed, "the loss is a mean over B pairs: divide by B."),
        Mistake(
            gradient_both_the_same,
            "the two are opposite: what pushes the chosen up pushes the rejected down.",
        ),
        Mistake(
            gradient_of_raw_margin,
            "beta is missing inside the sigmoid: the margin is a difference of "
            "rewards.",
        ),
        Mistake(
            gradient_without_reference,
            "the margin lacks the reference. It is a difference of log-*ratios*.",
        ),
    ),
    "ipo_loss": (
        Mistake(
            ipo_of_sums,
            "the log-ratios are sums over tokens here. Divide each by the length of "
            "its own completion.",
        ),
        Mistake(ipo_target_one_over_beta, "the target is 1 / (2 beta)."),
        Mistake(
            ipo_beta_inside,
            "beta does not multiply the gap: it is in the target only. That is another "
            "scale of the loss, beta squared smaller.",
        ),
        Mistake(
            ipo_target_half_beta,
            "the target is 1 / (2 beta): the *smaller* beta is, the further the "
            "policy may go.",
        ),
        Mistake(
            ipo_lengths_swapped,
            "each log-ratio is divided by the length of the other completion.",
        ),
        Mistake(
            ipo_one_length,
            "one length for both: each log-ratio has its own completion's.",
        ),
        Mistake(
            ipo_one_sided,
            "a gap beyond the target costs as well. That is the point of IPO: it stops "
            "the policy from going ever further on pairs that it has won.",
        ),
    ),
    "train_dpo": (
        Mistake(
            train_without_zero_grad,
            "gradients add up: those of earlier steps, and what was there before the "
            "first, are still in p.grad.",
        ),
        Mistake(
            train_reference_in_train_mode,
            "the reference is in training mode, so its dropout is on and what it says "
            "is noise. Call reference.eval().",
        ),
        Mistake(
            train_model_in_eval_mode,
            "the model is trained in evaluation mode: call model.train().",
        ),
        Mistake(
            train_reference_keeps_gradient,
            "backward ran through the reference. Its weights did not change this time, "
            "but gradients pile up in them, and a graph is kept that nobody needs. Ask "
            "it under torch.no_grad().",
        ),
        Mistake(
            train_reference_follows,
            "the reference has moved. It is the model before the first step, for the "
            "whole run.",
        ),
        Mistake(
            train_model_as_reference,
            "the log-ratios are of the model with itself: always 0. Ask the reference.",
        ),
        Mistake(train_uphill, "the weights go up the gradient: p -= lr * p.grad."),
        Mistake(
            train_notes_the_loss_after,
            "note the loss that the step was made from, before the weights change.",
        ),
        Mistake(
            train_swaps_the_replies,
            "chosen and rejected have changed places.",
        ),
    ),
}
