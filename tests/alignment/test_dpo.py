"""The DPO losses against hand-worked numbers, closed forms and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F

from posttrain.alignment.completions import collate
from posttrain.alignment.dpo import (
    dpo_loss,
    gradient_weight,
    implicit_rewards,
    sequence_logprobs,
)
from posttrain.foundations.modern_architecture import GPT, GPTConfig

KINDS = ("sigmoid", "hinge", "ipo")
B = 6


@pytest.fixture
def logprobs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(4, B, dtype=torch.float64, generator=generator)
    return list(-20 * draw)


def lengths(a: int = 7, b: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((B,), a), torch.full((B,), b)


def test_a_pair_by_hand():
    """log-ratios 2 and -1, beta 0.5: a margin of 1.5."""
    four = [torch.tensor([x]) for x in (-3.0, -6.0, -5.0, -5.0)]
    assert dpo_loss(*four, beta=0.5).item() == pytest.approx(
        math.log1p(math.exp(-1.5)), abs=1e-6
    )
    assert dpo_loss(*four, beta=0.5, kind="hinge").item() == 0
    assert dpo_loss(*four, beta=0.1, kind="hinge").item() == pytest.approx(0.7)
    counted = torch.tensor([4]), torch.tensor([2])  # 2 / 4 + 1 / 2 = 1
    ipo = dpo_loss(*four, beta=0.25, kind="ipo", lengths=counted)
    assert ipo.item() == pytest.approx((1 - 2) ** 2)


def test_at_the_reference_every_margin_is_zero(logprobs):
    same = (*logprobs[:2], *logprobs[:2])
    log2 = torch.full((B,), math.log(2), dtype=torch.float64)
    assert torch.allclose(dpo_loss(*same, beta=0.3), log2)
    assert torch.equal(dpo_loss(*same, beta=0.3, kind="hinge"), torch.ones_like(log2))
    ipo = dpo_loss(*same, beta=0.5, kind="ipo", lengths=lengths())
    assert torch.equal(ipo, torch.ones_like(log2))


def test_smoothing_mixes_the_two_labels(logprobs):
    a, b, ra, rb = logprobs
    plain, turned = dpo_loss(a, b, ra, rb, 0.2), dpo_loss(b, a, rb, ra, 0.2)
    smooth = dpo_loss(a, b, ra, rb, 0.2, label_smoothing=0.1)
    assert torch.allclose(smooth, 0.9 * plain + 0.1 * turned)


def test_huge_margins_stay_finite():
    for margin in (-1e4, 1e4):
        policy = torch.tensor([margin], requires_grad=True)
        zero = torch.zeros(1)
        loss = dpo_loss(policy, zero, zero, zero, beta=1.0)
        loss.sum().backward()
        assert loss.item() == pytest.approx(max(0.0, -margin))
        assert policy.grad.item() == pytest.approx(-1.0 if margin < 0 else 0.0)


def test_the_gradient_is_the_weight(logprobs):
    policy = [x.clone().requires_grad_() for x in logprobs[:2]]
    dpo_loss(*policy, *logprobs[2:], beta=0.3).sum().backward()
    rewards = [
        implicit_rewards(p.detach(), ref, 0.3)
        for p, ref in zip(policy, logprobs[2:], strict=True)
    ]
    weight = gradient_weight(rewards[0] - rewards[1], 0.3)
    assert torch.allclose(policy[0].grad, -weight)
    assert torch.allclose(policy[1].grad, weight)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_finite_differences(logprobs, kind):
    def loss(chosen, rejected):
        return dpo_loss(
            *(chosen, rejected, *logprobs[2:]), 0.3, kind, lengths=lengths()
        )

    policy = [x.clone().requires_grad_() for x in logprobs[:2]]
    assert torch.autograd.gradcheck(loss, policy)


def test_bad_settings_are_refused(logprobs):
    with pytest.raises(ValueError, match="kind='sigmoyd'"):
        dpo_loss(*logprobs, beta=0.1, kind="sigmoyd")
    with pytest.raises(ValueError, match="beta=0 must be above 0"):
        dpo_loss(*logprobs, beta=0)
    with pytest.raises(ValueError, match="label_smoothing=0.5"):
        dpo_loss(*logprobs, beta=0.1, label_smoothing=0.5)
    with pytest.raises(ValueError, match="not 'hinge'"):
        dpo_loss(*logprobs, beta=0.1, kind="hinge", label_smoothing=0.1)
    with pytest.raises(ValueError, match="needs lengths"):
        dpo_loss(*logprobs, beta=0.1, kind="ipo")


def test_sequence_logprobs_count_the_completion_and_nothing_else():
    torch.manual_seed(0)
    model = GPT(GPTConfig(V=11, T=16, C=16, L=1, H=2, H_kv=1)).eval()
    prompts, completions = [[1, 2, 3], [4]], [[5, 6], [7, 8, 9]]
    found = sequence_logprobs(model, collate(prompts, completions, pad=0))
    for prompt, completion, got in zip(prompts, completions, found, strict=True):
        logits = model(torch.tensor([prompt + completion[:-1]]))[0, len(prompt) - 1 :]
        due = -F.cross_entropy(logits, torch.tensor(completion), reduction="sum")
        assert got.item() == pytest.approx(due.item(), abs=1e-5)
