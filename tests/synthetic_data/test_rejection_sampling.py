"""What is kept, what is chosen, and how it is measured."""

import itertools
import random

import pytest
import torch

from posttrain.alignment.reward_model_measures import best_of_n_kl
from posttrain.alignment.rollouts import Rollout
from posttrain.alignment.word_problems import Problem
from posttrain.synthetic_data import rejection_sampling as R
from posttrain.synthetic_data import rejection_sampling_choice as choice
from posttrain.synthetic_data import rejection_sampling_measures as measures
from posttrain.synthetic_data import rejection_sampling_selection as selection

PROBLEM = Problem("Mia has 12 coins, finds 3 more, loses 5. How many now?", 12, (3, -5))
OTHER = Problem("Tom has 12 pens, finds 3 more, loses 5. How many now?", 12, (3, -5))
PATH, SWAPPED = "12+3=15;15-5=10", "3+12=15;15-5=10"
LOSSES_FIRST = "12-5=7;7+3=10"
SLIP = "12+3=16;15-5=10"


def reply(thinking, answer=10, problem=PROBLEM):
    """A rollout of one token, worth 1 nat."""
    text = f"<think>{thinking}</think>{answer}"
    return Rollout(problem, [1], [2], [-1.0], text)


def broken(problem=PROBLEM):
    """A reply that the verifier cannot read."""
    return Rollout(problem, [1], [2], [-1.0], "<think>12+3")


# ---------------------------------------------------------------- one out of n


def test_the_first_of_equal_scores_is_chosen():
    assert R.best_of([0.5, 2.0, 2.0, 1.0]) == 1


def test_a_reply_without_an_answer_has_no_vote():
    assert R.majority([None, None, None, 14]) == 14
    assert R.majority([None, None]) is None
    assert R.majority([]) is None


def test_of_equal_votes_the_answer_that_came_first_wins():
    assert R.majority([7, 9, 9, 7]) == 7
    assert R.majority([9, 7, 7, 9]) == 9


def test_weights_count_in_a_vote():
    assert R.majority([7, 7, 9], [0.2, 0.2, 0.5]) == 9
    with pytest.raises(ValueError):
        R.majority([7, 7, 9], [1.0])


def test_vote_curve_of_one_is_the_mean_and_of_all_the_majority():
    rows, due = [[1, 1, 2], [3, 4, 4]], [1, 3]
    one, three = selection.vote_curve(rows, due, [1, 3])
    assert three == 0.5
    assert one == pytest.approx(0.5, abs=0.15)  # 2/3 and 1/3, 40 draws each
    weights = [[1.0, 1.0, 1.0], [5.0, 1.0, 1.0]]
    assert selection.vote_curve(rows, due, [3], weights) == [1.0]


# ---------------------------------------------------------------- best of n, exactly


def enumerated_best(policy, scores, n):
    """Every sequence of n draws, its chance and its first best."""
    chances = torch.zeros_like(policy)
    for draws in itertools.product(range(len(policy)), repeat=n):
        best = max(draws, key=lambda y: scores[y].item())
        chances[best] += policy[list(draws)].prod()
    return chances


@pytest.mark.parametrize("scores", [[3, 1, 2, 0], [1, 1, 0, 1], [2, 2, 2, 2]])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_best_of_n_distribution_is_the_enumerated_one(scores, n):
    policy = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    scores = torch.tensor(scores)
    ours = selection.best_of_n_distribution(policy, scores, n)
    assert torch.allclose(ours, enumerated_best(policy, scores, n))


def test_kl_of_best_of_n_is_bounded_and_the_bound_is_reached_in_the_limit():
    generator = torch.Generator().manual_seed(0)
    for n in (2, 4, 16):
        for _ in range(20):
            logits = 2 * torch.randn(8, generator=generator, dtype=torch.float64)
            policy, scores = logits.softmax(-1), torch.randn(8, generator=generator)
            chances = selection.best_of_n_distribution(policy, scores, n)
            found = selection.kl(chances, policy)
            assert 0 <= found < best_of_n_kl(n)
            assert found <= -policy[scores.argmax()].log() + 1e-12
        many = torch.full((20_000,), 1 / 20_000, dtype=torch.float64)
        above = torch.arange(1, 20_001, dtype=torch.float64) / 20_000
        fine = above**n - (above - 1 / 20_000) ** n  # scores all different
        assert selection.kl(fine, many) == pytest.approx(best_of_n_kl(n), abs=2e-3)


def test_win_rate_against_one_draw_is_n_by_n_plus_one_in_the_limit():
    V = 400
    policy = torch.full((V,), 1 / V, dtype=torch.float64)
    scores = torch.arange(V)
    for n in (1, 3, 7):
        chances = selection.best_of_n_distribution(policy, scores, n)
        rate = selection.win_rate(chances, policy, scores)
        assert rate == pytest.approx(n / (n + 1), abs=2 / V)
    assert selection.win_rate(policy, policy, scores) == pytest.approx(0.5)


# ---------------------------------------------------------------- what is kept


def test_verdicts_on_answer_and_steps():
    assert R.right_answer(reply(PATH)) and R.right_steps(reply(PATH))
    assert R.right_answer(reply(SLIP)) and not R.right_steps(reply(SLIP))
    assert not R.right_answer(reply(PATH, 11)) and not R.right_steps(reply(PATH, 11))
    assert not R.right_answer(broken())


def test_the_same_calculation_in_another_order_or_writing_is_the_same():
    same = R.by_equations
    assert same(reply(PATH)) == same(reply(SWAPPED)) == same(reply("15-5=10;12+3=15"))
    assert same(reply(PATH)) != same(reply(LOSSES_FIRST))
    assert same(reply(PATH)) != same(reply(PATH, 11))
    assert R.by_reply(reply(PATH)) != R.by_reply(reply(SWAPPED))


def test_keep_filters_then_drops_duplicates_of_one_question_then_caps():
    replies = [
        reply(PATH, 11),
        reply(PATH),
        reply(SWAPPED),
        reply(PATH, problem=OTHER),
        reply(LOSSES_FIRST),
        reply(PATH),
        broken(OTHER),
    ]
    right = [R.right_answer(r) for r in replies]
    _, path, swapped, other, losses, again, _ = replies
    assert R.keep(replies, right) == [[path, swapped, losses, again], [other]]
    assert R.keep(replies, right, R.by_reply) == [[path, swapped, losses], [other]]
    assert R.keep(replies, right, R.by_equations) == [[path, losses], [other]]
    assert R.keep(replies, right, R.by_equations, most=1) == [[path], [other]]
    assert R.keep(replies, [False] * 7) == []
    with pytest.raises(ValueError):
        R.keep(replies, [True])


# ---------------------------------------------------------------- measures


def test_measures_of_a_few_replies():
    groups = [
        [reply(PATH), reply(SWAPPED), reply(SLIP), reply(PATH, 11)],
        [broken(OTHER) for _ in range(4)],
    ]
    found = measures.examined(groups)
    assert found["right"] == 3 / 8 and found["sound"] == 2 / 8
    assert found["false"] == pytest.approx(1 / 3)
    assert found["pass"] == {"1": 3 / 8, "2": 1 / 2, "4": 1 / 2}
    assert found["distinct"] == 1.0  # two to one problem, none to the other
    assert found["nats"] == 1.0
    assert found["by_length"] == {"2": 3 / 8}
    kept = R.keep(groups[0], [True] * 4)
    assert measures.composition(kept) == {
        "questions": 1,
        "replies": 4,
        "false": 0.5,
        "by_length": {"2": 1.0},
    }


def test_groups_must_be_whole():
    assert len(measures.by_problem([broken()] * 6, 3)) == 2
    with pytest.raises(ValueError, match="5 replies are not a multiple of k=3"):
        measures.by_problem([broken()] * 5, 3)


def test_curves_of_choice_on_replies_with_known_scores():
    """Three problems of four replies: found, fooled, and none to be found."""
    rng = random.Random(0)
    third = Problem("Ann has 12 pens, finds 3 more, loses 5.", 12, (3, -5))
    pool, scores = [], []
    for problem in (PROBLEM, OTHER, third):
        for i in range(4):
            right = i == 0 and problem is not third
            pool.append(reply(PATH if right else SLIP, 10 if right else 11, problem))
            scores.append(1.0 if right and problem is PROBLEM else -rng.random())
    scores = torch.tensor(scores).view(3, 4)
    scores[1, 0] = -5.0  # here the verifier is fooled
    found = choice.curves(pool, scores)
    assert found["n"] == [1, 2, 4]
    assert found["curves"]["exact"] == pytest.approx([1 / 6, 1 / 3, 2 / 3])
    assert found["curves"]["learned"] == pytest.approx([1 / 6, 1 / 6, 1 / 3])
    assert found["curves"]["vote"][-1] == 0.0
    assert found["curves"]["likely"][0] == found["curves"]["exact"][0]
    assert found["fooled"] == pytest.approx(1 / 3)
    assert found["verdicts"] == pytest.approx(11 / 12)
    assert [e["question"] for e in found["examples"]] == [OTHER.question]
