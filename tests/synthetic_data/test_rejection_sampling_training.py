"""Learning from kept replies: what a batch holds, and the rounds."""

import random
from collections import Counter

import pytest
import torch

from posttrain.alignment.reward_model import RewardModel
from posttrain.alignment.rollouts import Rollout
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.trainer import fit
from posttrain.synthetic_data import rejection_sampling_arms as arms
from posttrain.synthetic_data import rejection_sampling_training as train
from posttrain.synthetic_data import rejection_sampling_verifier as verifier
from posttrain.synthetic_data.rejection_sampling import by_reply
from posttrain.synthetic_data.rejection_sampling_paths import Exam

EXAM = Exam((1, 2))


def everything(rollout: Rollout) -> bool:
    """A verifier that accepts whatever it sees."""
    return True


def begins_with_a_letter(rollout: Rollout) -> bool:
    """A verdict that random replies earn sometimes."""
    return rollout.reply[:1].isalpha()


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    config = GPTConfig(V=tokenizer().vocab_size, T=64, C=32, L=1, H=2, H_kv=1)
    return GPT(config)


def test_balanced_batches_show_each_question_as_often():
    groups = [["easy"] * 9, ["hard"]]
    rng = random.Random(0)
    drawn = Counter(train.Accepted(groups).pick(rng) for _ in range(4000))
    assert drawn["hard"] / 4000 == pytest.approx(1 / 2, abs=0.03)
    by_reply_count = train.Accepted(groups, balanced=False)
    drawn = Counter(by_reply_count.pick(rng) for _ in range(4000))
    assert drawn["hard"] / 4000 == pytest.approx(1 / 10, abs=0.02)


def test_batches_are_a_function_of_the_step(model):
    rollouts = train.answers(model, EXAM.problems(0, 6), 2, seed=0, max_new=4)
    accepted = train.Accepted([rollouts[:2], rollouts[2:]], B=5)
    first, again, second = accepted(0), accepted(0), accepted(1)
    assert len(first) == 5
    assert torch.equal(first.tokens, again.tokens)
    assert first.tokens.shape != second.tokens.shape or not torch.equal(
        first.tokens, second.tokens
    )


def test_nothing_accepted_is_an_error():
    with pytest.raises(ValueError, match="no reply was accepted"):
        train.Accepted([])


def test_rounds_raise_what_the_verdict_accepts(model):
    recipe = train.Iteration(
        rounds=6, questions=16, k=4, steps=5, lr=3e-2, B=32, max_new=2
    )
    log = train.iterate(model, EXAM, recipe, seed=0, verdict=begins_with_a_letter)
    assert len(log) == 6
    assert log[0].accepted < 0.6 and log[-1].accepted > 0.9
    assert all(look.false == 1 for look in log)  # letters, but never a right answer


def asked_in(monkeypatch, model, **options):
    """Which questions each round asks, and whether `model` itself answers them."""
    seen = []

    def watch(writer, problems, *args, answers=train.answers, **kwargs):
        seen.append(([p.question for p in problems], writer is model))
        return answers(writer, problems, *args, **kwargs)

    monkeypatch.setattr(train, "answers", watch)
    recipe = train.Iteration(
        rounds=2, questions=4, k=2, steps=1, B=2, max_new=2, **options
    )
    train.iterate(model, EXAM, recipe, seed=0, verdict=everything)
    return seen


def test_every_round_asks_the_present_model_something_new(monkeypatch, model):
    (first, own), (second, still) = asked_in(monkeypatch, model)
    assert own and still and not set(first) & set(second)


def test_faults_of_the_loop(monkeypatch, model):
    (first, _), (second, _) = asked_in(monkeypatch, model, same_questions=True)
    assert first == second
    monkeypatch.undo()
    (_, own), (_, still) = asked_in(monkeypatch, model, stale=True)
    assert not own and not still


def test_a_round_that_keeps_nothing_says_so(model):
    recipe = train.Iteration(rounds=1, questions=4, k=2, steps=1, max_new=2)
    with pytest.raises(ValueError, match="none of 8 replies was accepted"):
        train.iterate(model, EXAM, recipe, seed=0)


def test_draws_share_replies_and_are_drawn_once(monkeypatch, model):
    calls = []

    def count(*args, answers=arms.answers, **kwargs):
        calls.append(kwargs["temperature"])
        return answers(*args, **kwargs)

    monkeypatch.setattr(arms, "answers", count)
    draws = arms.Draws(model, EXAM.problems(0, 3), k=4, seed=0, max_new=3)
    whole = draws.rollouts()
    assert len(whole) == 12
    assert draws.rollouts(1) == [whole[0], whole[4], whole[8]]
    assert len(draws.rollouts(2, temperature=0.5)) == 6
    assert calls == [1.0, 0.5]


def test_arms_keep_what_they_say(model):
    draws = arms.Draws(model, EXAM.problems(0, 40), k=4, seed=0, max_new=3)
    size = {
        name: sum(map(len, arms.kept_by(arms.Arm(everything, **knobs), draws)))
        for name, knobs in {
            "all": {},
            "k": {"k": 3},
            "same": {"same": by_reply, "most": 2},
            "most": {"most": 1},
        }.items()
    }
    assert size == {"all": 160, "k": 120, "same": size["same"], "most": 40}
    assert size["same"] <= 80
    assert arms.kept_by(arms.Arm(), draws) == []  # a random model is never right
    let_pass = sum(map(len, arms.kept_by(arms.Arm(wrong=0.2), draws)))
    assert let_pass / 160 == pytest.approx(0.2, abs=0.1)
    assert sum(map(len, arms.kept_by(arms.ARMS["no verifier"], draws))) == 160


def test_a_verifier_learns_its_labels(model):
    problems = EXAM.problems(0, 64)
    rollouts = train.answers(model, problems, 2, seed=0, max_new=3)
    right = [begins_with_a_letter(r) for r in rollouts]
    judge = RewardModel(model)
    labelled = verifier.Labelled(rollouts, right, B=32)
    replies, labels = labelled(0)
    assert len(replies) == len(labels) == 32
    before = verifier.total_label_loss(judge, (replies, labels)).item()
    assert before == pytest.approx(32 * 0.6931, abs=1e-2)  # the head starts at 0
    fit(verifier.verifier_trainer(judge, labelled, steps=40))
    scores = verifier.log_odds(judge, rollouts)
    verdicts = [(s > 0) == ok for s, ok in zip(scores.tolist(), right, strict=True)]
    assert sum(verdicts) / len(verdicts) > 0.9
    with pytest.raises(ValueError, match="128 replies are fewer than a batch of B=500"):
        verifier.Labelled(rollouts, right, B=500)
