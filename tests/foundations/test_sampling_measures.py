"""Measures of samples against enumeration, and the game's verifier."""

import itertools
import math

import pytest
import torch

from posttrain.foundations import sampling_game as game
from posttrain.foundations import sampling_measures as m
from posttrain.foundations.language_model import IGNORE
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.sampling import Sampling
from posttrain.foundations.sampling_generate import generate


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 4)])
def test_pass_and_mixed_count_subsets(n, c, k):
    tries = [True] * c + [False] * (n - c)
    subsets = list(itertools.combinations(tries, k))
    some = sum(map(any, subsets)) / len(subsets)
    mixed = sum(any(s) and not all(s) for s in subsets) / len(subsets)
    assert m.pass_at_k(n, c, k) == pytest.approx(some)
    assert m.mixed_groups(n, c, k) == pytest.approx(mixed)


def test_pass_at_k_is_unbiased_and_works_for_large_n():
    n, k, chance = 12, 5, 0.15
    mean = sum(
        math.comb(n, c) * chance**c * (1 - chance) ** (n - c) * m.pass_at_k(n, c, k)
        for c in range(n + 1)
    )
    assert mean == pytest.approx(1 - (1 - chance) ** k)
    assert 0.7 < m.pass_at_k(4000, 7, 700) < 0.75


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 2, 0), (5, 2, 6)])
def test_impossible_counts_are_named(n, c, k):
    for measure in (m.pass_at_k, m.mixed_groups):
        with pytest.raises(ValueError, match=f"n={n}"):
            measure(n, c, k)


def test_majority():
    assert m.majority(["b", "a", "a", "b", "c"]) == "b"
    assert m.majority(["b", "a", "a"]) == "a"


def test_word_measures_count_what_they_say():
    texts = ["xx the king and the king and the king yy", "a O'er blorp z"]
    found = m.word_measures(texts, {"the", "king", "and", "o'er"})
    assert found["words"] == 10
    assert found["real"] == 9 / 10
    # the king, king and, and the, o'er blorp: 4 of 8 pairs
    assert found["distinct"] == 4 / 8
    assert found["repeated"] == 3 / 6
    nothing = {"words": 0, "real": 0.0, "distinct": 0.0, "repeated": 0.0}
    assert m.word_measures([""], set()) == nothing


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = GPT(GPTConfig(V=11, T=32, C=32, L=2, H=4)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


@pytest.mark.parametrize(
    "settings",
    [
        Sampling(),
        Sampling(temperature=0),
        Sampling(temperature=0.7, top_p=0.8),
        Sampling(temperature=0, repetition_penalty=1.4),
        Sampling(top_k=3, repetition_penalty=1.4),
    ],
)
def test_scores_are_those_of_the_generation(model, settings):
    prompts = [[1, 2, 3], [4, 5, 6]]
    generator = torch.Generator().manual_seed(1)
    rows = generate(model, prompts, 9, settings=settings, generator=generator)
    answers = [row.tokens for row in rows]
    scored = m.score(model, prompts, answers, settings)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        for t in range(9):
            text = prompt + answer[:t]
            with torch.no_grad():
                z = model(torch.tensor([text]))[:, -1]
            p = z.softmax(-1)[0]
            assert scored.nats[i, t].item() == pytest.approx(
                -p[answer[t]].log().item(), abs=1e-4
            )
            seen = torch.zeros(1, 11, dtype=torch.bool)
            seen[0, text] = True
            q = settings.process(z, seen).softmax(-1)[0]
            if settings.greedy:
                assert answer[t] == q.argmax()
                q = torch.zeros(11).index_fill_(0, q.argmax(), 1.0)
            hot = (z / (settings.temperature or 1)).softmax(-1)[0]
            assert scored.kept[i, t].item() == pytest.approx(
                hot[q > 0].sum().item(), abs=1e-4
            )
            entropy = torch.special.entr(q).sum().item()
            assert scored.entropy[i, t].item() == pytest.approx(entropy, abs=1e-4)


# ------------------------------------------------------------------------------ game


def test_the_verifier_does_arithmetic():
    puzzle = game.Puzzle((3, 5, 8), 23)
    assert puzzle.prompt == "358=23:"
    assert game.verify(puzzle, "3*5+8;")
    assert game.verify(puzzle, "8+5*3;") is False  # left to right: 39
    assert game.verify(game.Puzzle((3, 5, 8), 39), "8+5*3;")
    for wrong in ("3*5+9;", "3*5+8", "3*5+8;;", "3*5*8;", "35++8;", "", "3*5+8:"):
        assert not game.verify(puzzle, wrong)


def test_every_demonstration_is_right_and_the_split_is_clean():
    train, test = game.split(0)
    assert len(test) == pytest.approx(len(train) / 9, rel=0.01)
    assert not set(test) & set(train)
    for puzzle, answers in train.items():
        assert all(game.verify(puzzle, answer) for answer in answers)
    assert game.split(1)[1] != test


def test_only_the_answer_is_a_target():
    inputs, targets = game.demonstration(game.Puzzle((3, 5, 8), 9), "3*5-8;")
    assert game.decode(inputs).startswith("358=9:3*5-8")
    counted = [t for t in targets if t != IGNORE]
    assert game.decode(counted) == "3*5-8;"
    first = targets.index(counted[0])
    assert game.decode(inputs[: first + 1]) == "358=9:"
    assert len(inputs) == len(targets) == game.T


def test_batches_follow_seed_and_step():
    train, _ = game.split(0)
    batches = game.Demonstrations.of(train, 4, 1)
    other = game.Demonstrations.of(train, 4, 2)
    assert all(map(torch.equal, batches(5, 0), batches(5, 0)))
    assert not torch.equal(batches(5, 0)[0], batches(6, 0)[0])
    assert not torch.equal(batches(5, 0)[0], other(5, 0)[0])
