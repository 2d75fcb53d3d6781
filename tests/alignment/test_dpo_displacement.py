"""What gradients say of a step, against the step itself."""

import copy

import pytest
import torch

from posttrain.alignment.completions import Completions
from posttrain.alignment.dpo import sequence_logprobs
from posttrain.alignment.dpo_displacement import influence, pulls
from posttrain.alignment.dpo_preferences import style_pairs
from posttrain.alignment.dpo_training import (
    PairBatches,
    Pairs,
    Recipe,
    loss_of,
    pair_logprobs,
)
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.foundations.modern_architecture import GPT, GPTConfig

PAIRS = Pairs.of([(p.question, p.chosen, p.rejected) for p in style_pairs(0, 6)])
RATE = 1e-5


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    V = tokenizer().vocab_size
    config = GPTConfig(V=V, T=128, C=16, L=1, H=2, H_kv=1)
    return GPT(config).eval()


def speed(model: GPT, loss: torch.Tensor, replies: Completions) -> torch.Tensor:
    """Change of log p a unit of rate: a step down the loss less one up, halved."""
    grads = torch.autograd.grad(loss, list(model.parameters()))
    ends = []
    for rate in (RATE, -RATE):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for p, g in zip(moved.parameters(), grads, strict=True):
                p -= rate * g
            ends.append(sequence_logprobs(moved, replies))
    return (ends[0] - ends[1]) / (2 * RATE)


def test_a_small_step_on_one_pair(model):
    """log p changes by the rate times own - cross, and cross - other."""
    for i in range(3):
        pair = PAIRS.batch([i])
        found = pulls(model, pair)
        chosen, rejected = sequence_logprobs(model, pair)
        change = speed(model, -(chosen - rejected), pair)
        rates = [found.own - found.cross, found.cross - found.other]
        assert torch.allclose(change, torch.tensor(rates), rtol=0.02, atol=2)
        assert found.chosen_falls == (change[0] < 0)


def test_influence_is_what_a_small_step_does(model):
    batches = PairBatches(PAIRS, pair_logprobs(model, PAIRS), B=4)
    loss = loss_of(Recipe(beta=0.5), model, batches(0)) / 4
    replies = PAIRS.batch([4, 5])
    found = influence(model, replies, loss)
    loss = loss_of(Recipe(beta=0.5), model, batches(0)) / 4
    assert torch.allclose(found, speed(model, loss, replies), rtol=0.02, atol=2)


def test_a_pair_has_two_rows(model):
    with pytest.raises(ValueError, match="4 rows"):
        pulls(model, PAIRS.batch([0, 1]))
