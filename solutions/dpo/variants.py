"""Answers that the grader of `dpo` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import torch
import torch.nn.functional as F

# ---------------------------------------------------------- sequence_logprobs


def sequence_by_cross_entropy(logits, tokens, mask):
    targets = tokens.masked_fill(~mask, -100)[:, 1:]
    flat = logits[:, :-1].flatten(0, 1), targets.flatten()
    return -F.cross_entropy(*flat, reduction="none").view_as(targets).sum(1)


def sequence_row_by_row(logits, tokens, mask):
    rows = []
    for b in range(len(tokens)):
        places = mask[b].nonzero()[:, 0]
        scores = logits[b, places - 1]
        chosen = scores[torch.arange(len(places)), tokens[b, places]]
        rows.append((chosen - scores.logsumexp(-1)).sum())
    return torch.stack(rows)


def sequence_detached(logits, tokens, mask):
    table = logits.detach()[:, :-1].log_softmax(-1) + 0 * logits[:, :-1]
    each = table.gather(-1, tokens[:, 1:, None])[..., 0]
    return (each * mask[:, 1:]).sum(1)


def sequence_without_its_last_token(logits, tokens, mask):
    table = logits[:, :-1].log_softmax(-1)
    each = table.gather(-1, tokens[:, 1:, None])[..., 0]
    counts = mask.clone()
    last = mask.int().cumsum(1).argmax(1)
    counts[torch.arange(len(mask)), last] = False
    return (each * counts[:, 1:]).sum(1)


# ------------------------------------------------------------- optimal_policy


def policy_shifted_by_hand(ref, rewards, beta):
    exponents = (rewards - rewards.max(-1, keepdim=True).values) / beta
    share = ref * torch.exp(exponents)
    policy = share / share.sum(-1, keepdim=True)
    moved = torch.nan_to_num(policy * (policy / ref).log())  # 0 log 0 / 0 counts 0
    return policy, (policy * rewards - beta * moved).sum(-1)


def policy_by_log_partition(ref, rewards, beta):
    exponents = rewards.double() / beta + ref.double().log()
    log_z = torch.logsumexp(exponents, -1, keepdim=True)
    policy = torch.exp(exponents - log_z).to(ref.dtype)
    return policy, (beta * log_z[..., 0]).to(ref.dtype)


def policy_writes_into_rewards(ref, rewards, beta):
    rewards /= beta
    exponents = ref.log() + rewards
    return torch.softmax(exponents, -1), beta * exponents.logsumexp(-1)


def policy_with_smoothed_reference(ref, rewards, beta):
    exponents = (ref + 1e-3).log() + rewards / beta
    return torch.softmax(exponents, -1), beta * exponents.logsumexp(-1)


# -------------------------------------------------------- rewards_from_policy


def rewards_of_one_logarithm(policy, ref, beta):
    return torch.log(policy / ref) * beta


def rewards_by_log1p(policy, ref, beta):
    return beta * torch.log1p((policy - ref) / ref)


def rewards_centred(policy, ref, beta):
    rewards = beta * (policy.log() - ref.log())
    return rewards - rewards.mean(-1, keepdim=True)


# ------------------------------------------------------------------ preference


def preference_by_odds(policy, ref, beta):
    strengths = (policy / ref) ** beta
    return strengths[..., :, None] / (strengths[..., :, None] + strengths[..., None, :])


def preference_by_loops(policy, ref, beta):
    rewards = beta * torch.log(policy / ref) + 7.0  # a wrong Z: it cancels
    Y = rewards.shape[-1]
    rows = [
        torch.stack(
            [F.sigmoid(rewards[..., i] - rewards[..., j]) for j in range(Y)], -1
        )
        for i in range(Y)
    ]
    return torch.stack(rows, -2)


def preference_never_of_itself(policy, ref, beta):
    rewards = beta * (policy.log() - ref.log())
    table = torch.sigmoid(rewards[..., :, None] - rewards[..., None, :])
    return table * (1 - torch.eye(table.shape[-1], dtype=table.dtype))


def preference_across_prompts(policy, ref, beta):
    rewards = beta * (policy.log() - ref.log())
    return torch.sigmoid(rewards[:, None] - rewards)


# ------------------------------------------------------------------- dpo_loss


def loss_by_softplus(pc, pr, rc, rr, beta, label_smoothing=0.0):
    with torch.no_grad():
        ref = rc - rr
    margin = beta * (pc - pr - ref)
    losses = F.softplus(-margin) + label_smoothing * margin
    return losses.mean()


def loss_by_cross_entropy(pc, pr, rc, rr, beta, label_smoothing=0.0):
    rewards = torch.stack([pc - rc.detach(), pr - rr.detach()], dim=1)
    target = torch.tensor([1 - label_smoothing, label_smoothing], dtype=pc.dtype)
    return F.cross_entropy(beta * rewards, target.expand(len(pc), 2))


def loss_policy_detached(pc, pr, rc, rr, beta, label_smoothing=0.0):
    margin = beta * ((pc - rc.detach()) - (pr.detach() - rr.detach()))
    right, turned = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    return ((1 - label_smoothing) * right + label_smoothing * turned).mean()


def loss_hinge(pc, pr, rc, rr, beta, label_smoothing=0.0):
    margin = beta * ((pc - rc.detach()) - (pr - rr.detach()))
    return torch.relu(1 - margin).mean()


def loss_clamped(pc, pr, rc, rr, beta, label_smoothing=0.0):
    margin = beta * ((pc - rc.detach()) - (pr - rr.detach()))
    margin = margin.clamp(-50, 50)
    right, turned = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    return ((1 - label_smoothing) * right + label_smoothing * turned).mean()


# --------------------------------------------------------------- dpo_gradient


def gradient_by_one_minus(pc, pr, rc, rr, beta):
    margin = beta * (pc - rc - pr + rr)
    slope = -beta * (1 - torch.sigmoid(margin)) / pc.numel()
    return slope, -slope


def gradient_in_a_list(pc, pr, rc, rr, beta):
    wrong = ((pr - rr - pc + rc) * beta).double().sigmoid()
    weight = (wrong * beta / len(pc)).to(pc.dtype)
    return [-weight, weight]


def gradient_of_hinge(pc, pr, rc, rr, beta):
    margin = beta * ((pc - rc) - (pr - rr))
    weight = beta * (margin < 1).to(pc.dtype) / len(pc)
    return -weight, weight


# ------------------------------------------------------------------- ipo_loss


def ipo_by_mse(pc, pr, rc, rr, n, m, beta):
    gap = (pc - rc) / n - (pr - rr) / m
    return F.mse_loss(gap, torch.full_like(gap, 0.5 / beta))


def ipo_of_means_first(pc, pr, rc, rr, n, m, beta):
    gap = (pc / n - pr / m) - (rc / n - rr / m)
    off = gap - 0.5 / beta
    return (off * off).sum() / len(off)


def ipo_absolute(pc, pr, rc, rr, n, m, beta):
    gap = (pc - rc) / n - (pr - rr) / m
    return (gap - 1 / (2 * beta)).abs().mean()


# ------------------------------------------------------------------ train_dpo


def train_with_sgd(model, reference, chosen, rejected, logprobs, loss_of, lr, steps):
    """Asks the reference at every step; a whole-row update through `.data`."""
    losses = []
    for _ in range(steps):
        model.train()
        reference.eval()
        for p in model.parameters():
            p.grad = None
        with torch.no_grad():
            rc, rr = logprobs(reference, *chosen), logprobs(reference, *rejected)
        loss = loss_of(logprobs(model, *chosen), logprobs(model, *rejected), rc, rr)
        loss.backward()
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-lr)
        losses.append(loss.detach())
    return losses


def train_detaching(model, reference, chosen, rejected, logprobs, loss_of, lr, steps):
    model.train()
    reference.eval()
    theirs = [logprobs(reference, *side).detach() for side in (chosen, rejected)]
    losses = torch.zeros(steps, dtype=torch.float64)
    for step in range(steps):
        model.zero_grad(set_to_none=False)
        ours = [logprobs(model, *side) for side in (chosen, rejected)]
        loss = loss_of(*ours, *theirs)
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p - lr * p.grad)
        losses[step] = loss.detach()
    return losses


def train_one_step_only(
    model, reference, chosen, rejected, logprobs, loss_of, lr, steps
):
    losses = train_with_sgd(
        model, reference, chosen, rejected, logprobs, loss_of, lr, 1
    )
    return losses * steps


def train_on_chosen_only(
    model, reference, chosen, rejected, logprobs, loss_of, lr, steps
):
    def frozen(one, tokens, mask):
        found = logprobs(one, tokens, mask)
        return found.detach() if tokens is rejected[0] else found

    return train_with_sgd(
        model, reference, chosen, rejected, frozen, loss_of, lr, steps
    )


RIGHT = {
    "sequence_logprobs": [sequence_by_cross_entropy, sequence_row_by_row],
    "optimal_policy": [policy_shifted_by_hand, policy_by_log_partition],
    "rewards_from_policy": [rewards_of_one_logarithm, rewards_by_log1p],
    "preference": [preference_by_odds, preference_by_loops],
    "dpo_loss": [loss_by_softplus, loss_by_cross_entropy],
    "dpo_gradient": [gradient_by_one_minus, gradient_in_a_list],
    "ipo_loss": [ipo_by_mse, ipo_of_means_first],
    "train_dpo": [train_with_sgd, train_detaching],
}

WRONG = {
    "sequence_logprobs": [sequence_detached, sequence_without_its_last_token],
    "optimal_policy": [policy_writes_into_rewards, policy_with_smoothed_reference],
    "rewards_from_policy": [rewards_centred],
    "preference": [preference_never_of_itself, preference_across_prompts],
    "dpo_loss": [loss_policy_detached, loss_hinge, loss_clamped],
    "dpo_gradient": [gradient_of_hinge],
    "ipo_loss": [ipo_absolute],
    "train_dpo": [train_one_step_only, train_on_chosen_only],
}

EQUIVALENT = {
    "sequence_logprobs: `each = logprobs.gather(-1, tokens[:, 1:, None])[..., 0]` -> "
    "`each = logprobs.gather(-1, tokens[:, 1:, None])[..., -1]`": (
        "the last dimension has one item: the first is the last"
    ),
    "sequence_logprobs: `logprobs = logits[:, :-1].log_softmax(dim=-1)` -> "
    "`logprobs = logits[:, :].log_softmax(dim=-1)`": (
        "gather reads as many positions as its index has: not the last"
    ),
    "train_dpo: `losses.append(loss.item())` -> `losses.append(loss)`": (
        "a tensor of one number is taken for the number"
    ),
}
