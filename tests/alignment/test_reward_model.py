"""The scalar head, the token that it reads, the loss, training on pairs."""

import math
import random

import pytest
import torch
import torch.nn.functional as F

from posttrain.alignment.chat_template import encode_prompt, encode_reply
from posttrain.alignment.completions import Completions, collate
from posttrain.alignment.reward_model import (
    RewardModel,
    bradley_terry_loss,
    pair_losses,
    whole_rows,
    win_probability,
)
from posttrain.alignment.reward_model_training import (
    PairPool,
    Preference,
    reward_trainer,
    rewards_of,
)
from posttrain.alignment.word_problem_styles import Style
from posttrain.alignment.word_problem_tokenizer import END_TURN, tokenizer
from posttrain.alignment.word_problems import Difficulty, problems
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.trainer import fit

TOK = tokenizer()


@pytest.fixture(scope="module")
def gpt() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(V=TOK.vocab_size, T=112, C=32, L=1, H=2, H_kv=1))


@pytest.fixture
def model(gpt) -> RewardModel:
    made = RewardModel(gpt)
    torch.nn.init.normal_(made.gpt.head.weight)
    return made.eval()


def preferences(n: int, seed: int = 0) -> list[Preference]:
    """Polite is better than rude."""
    rng = random.Random(seed)
    pairs = []
    for problem in problems(seed, n, Difficulty(2)):
        good, bad = (Style(p, rng.random() < 0.5).reply(rng, problem) for p in (1, 0))
        pairs.append(Preference(problem.question, good, bad))
    return pairs


def test_the_last_token_of_every_reply_is_put_back():
    batch = collate([[5, 6], [5], [7, 8, 9]], [[1, 2], [3, 4, 1, 2], [2]], pad=0)
    tokens, last = whole_rows(batch)
    rows = [[5, 6, 1, 2, 0], [5, 3, 4, 1, 2], [7, 8, 9, 2, 0]]
    assert tokens.tolist() == rows
    assert last.tolist() == [3, 4, 3]
    assert batch.tokens.shape == (3, 4)  # the batch is as it was


def test_a_row_without_a_reply_has_no_reward(model):
    batch = collate([[5, 6], [5]], [[1], []], pad=0)
    with pytest.raises(ValueError, match="row 1 has no target"):
        model(batch)


def test_the_reward_does_not_depend_on_padding_or_company(model):
    prompt = encode_prompt(TOK, "Mia has 12 coins. How many now?")
    short, long = (
        encode_reply(TOK, text)
        for text in ("<think></think>12", "<think>12+3=15;15-5=10</think>10")
    )
    alone = [model(collate([prompt], [reply], pad=0)) for reply in (short, long)]
    together = model(collate([prompt] * 2, [short, long], pad=3))
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    scores = model.scores(torch.tensor([prompt + short]))
    torch.testing.assert_close(scores[:, -1], alone[0], atol=1e-5, rtol=1e-5)
    assert short[-1] == TOK.special_id(END_TURN)


def test_the_body_is_a_copy_and_a_fresh_head_is_indifferent(gpt):
    model = RewardModel(gpt)
    batch = Completions(torch.tensor([[1, 2, 3]]), torch.tensor([[-100, 3, 4]]))
    assert model(batch).item() == 0
    with torch.no_grad():
        model.gpt.token.weight.add_(1)
    assert not model.gpt.token.weight.equal(gpt.token.weight)
    assert model.gpt.head.weight.shape == (1, 32)


def test_only_differences_decide_the_probability():
    a, b = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    p = win_probability(a, b)
    torch.testing.assert_close(p, win_probability(a + 7, b + 7))
    torch.testing.assert_close(p + win_probability(b, a), torch.ones(2))
    odds = p / (1 - p)
    torch.testing.assert_close(odds.log(), a - b)


def test_the_loss_by_hand():
    chosen, rejected = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.5])
    due = [math.log1p(math.exp(-(1 - 0.5))), math.log1p(math.exp(0.5 + 0.5))]
    losses = pair_losses(chosen, rejected, margin=0.5)
    torch.testing.assert_close(losses, torch.tensor(due))
    loss = bradley_terry_loss(chosen, rejected, margin=0.5, centring=0.1)
    torch.testing.assert_close(
        loss.item(), sum(due) / 2 + 0.1 * (3.0**2 + 0.5**2) / 2, rtol=1e-6, atol=0
    )
    even = bradley_terry_loss(torch.zeros(3), torch.zeros(3))
    assert even.item() == pytest.approx(math.log(2))


def test_targets_are_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    target = torch.rand(9, generator=generator, dtype=torch.float64)
    due = F.binary_cross_entropy_with_logits(
        chosen - rejected, target, reduction="none"
    )
    torch.testing.assert_close(pair_losses(chosen, rejected, target=target), due)


def test_huge_differences_stay_finite_with_a_gradient():
    chosen = torch.tensor([-500.0, 500.0], requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.tensor([500.0, -500.0]))
    loss.backward()
    assert loss.item() == pytest.approx(500)
    assert chosen.grad.tolist() == pytest.approx([-0.5, 0.0])


def test_a_pair_stays_together_and_an_epoch_sees_each_once():
    made = preferences(6)
    pool = PairPool.of(made, B=2)
    seen = []
    for step in range(3):
        pairs = pool(step)
        texts = [TOK.decode(row) for row in whole_rows(pairs.replies)[0].tolist()]
        for chosen, rejected in zip(texts[:2], texts[2:], strict=True):
            found = [p for p in made if p.question in chosen]
            assert len(found) == 1
            assert found[0].question in rejected
            assert found[0].chosen in chosen
            assert found[0].rejected in rejected
            seen.append(found[0].question)
    assert len(set(seen)) == 6
    with pytest.raises(ValueError, match="fewer than a batch"):
        PairPool.of(made, B=7)


def test_margins_and_targets_reach_the_loss(model):
    tied = Preference("Sure", "<think></think>1", "<think></think>2", target=0.5)
    strong = Preference("Sure", "<think></think>1", "<think></think>2", margin=2.0)
    pairs = PairPool.of([tied, strong], B=2).batch([0, 1])
    chosen, rejected = model(pairs.replies).chunk(2)
    due = pair_losses(
        chosen, rejected, torch.tensor([0.0, 2.0]), torch.tensor([0.5, 1.0]), 0.3
    )
    trainer = reward_trainer(model, PairPool.of([tied, strong], B=2), 1, centring=0.3)
    torch.testing.assert_close(trainer.loss(model, pairs), due.sum())
    assert trainer.size(pairs) == 2


def test_it_learns_what_the_labels_prefer(gpt):
    torch.manual_seed(1)
    model = RewardModel(gpt)
    pool = PairPool.of(preferences(128), B=16)
    records = []
    fit(reward_trainer(model, pool, 30, lr=1e-2), records.append)
    assert records[0].loss == pytest.approx(math.log(2))
    unseen = preferences(64, seed=9)
    good = rewards_of(model, [(p.question, p.chosen) for p in unseen])
    bad = rewards_of(model, [(p.question, p.rejected) for p in unseen])
    assert (good > bad).float().mean() >= 0.95


def test_rewards_come_back_in_the_order_asked(model):
    asked = [(p.question, p.chosen) for p in preferences(10)]
    together = rewards_of(model, asked, B=4)
    one_by_one = torch.cat([rewards_of(model, [pair]) for pair in asked])
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-5)
