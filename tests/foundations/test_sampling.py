"""Choosing a token: equal to transformers' processors, with the right frequencies."""

import pytest
import torch

from posttrain.foundations import sampling as s
from posttrain.foundations.sampling import Sampling

V = 50


def logits(B=8, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(B, V, generator=generator)


def theirs(processor, scores, ids=None):
    ids = torch.zeros(len(scores), 1, dtype=torch.long) if ids is None else ids
    return processor(ids, scores.clone())


@pytest.mark.parametrize("seed", range(5))
def test_each_rule_equals_that_of_transformers(seed):
    from transformers import generation as g

    x = logits(seed=seed)
    for value in (0.3, 1.0, 2.5):
        wanted = theirs(g.TemperatureLogitsWarper(value), x)
        torch.testing.assert_close(s.scale_temperature(x, value), wanted)
    for k in (1, 7, V, V + 9):
        assert torch.equal(s.keep_top_k(x, k), theirs(g.TopKLogitsWarper(k), x))
    for p in (0.05, 0.5, 0.9, 0.999):
        assert torch.equal(s.keep_top_p(x, p), theirs(g.TopPLogitsWarper(p), x))
    for p in (0.0, 0.02, 0.3, 1.0):
        assert torch.equal(s.keep_min_p(x, p), theirs(g.MinPLogitsWarper(p), x))


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.8])
def test_the_penalty_equals_that_of_transformers(penalty):
    from transformers import generation as g

    x, ids = logits(), torch.randint(V, (8, 20))
    seen = torch.zeros(8, V, dtype=torch.bool).scatter_(1, ids, True)
    wanted = theirs(g.RepetitionPenaltyLogitsProcessor(penalty), x, ids)
    torch.testing.assert_close(s.penalise_repetition(x, seen, penalty), wanted)


def test_the_chain_equals_that_of_transformers():
    from transformers import generation as g

    x, ids = logits(), torch.randint(V, (8, 20))
    seen = torch.zeros(8, V, dtype=torch.bool).scatter_(1, ids, True)
    chain = g.LogitsProcessorList(
        [
            g.RepetitionPenaltyLogitsProcessor(1.3),
            g.TemperatureLogitsWarper(0.7),
            g.TopKLogitsWarper(20),
            g.TopPLogitsWarper(0.9),
            g.MinPLogitsWarper(0.05),
        ]
    )
    settings = Sampling(0.7, top_k=20, top_p=0.9, min_p=0.05, repetition_penalty=1.3)
    torch.testing.assert_close(settings.process(x, seen), chain(ids, x.clone()))


def test_edges_of_the_cuts():
    flat = torch.zeros(1, 4)
    assert torch.equal(s.keep_top_k(flat, 2), flat)  # ties stay together
    assert (s.keep_top_p(flat, 1e-6) > s.CUT).sum() == 1  # one is always left
    assert torch.equal(s.keep_top_p(flat, 1.0), flat)
    far = torch.tensor([[30.0, 0.0, -5.0]])  # the first has all that float32 can tell
    assert torch.equal(s.keep_top_p(far, 1.0), far)
    assert torch.equal(s.keep_min_p(flat, 1.0), flat)
    once = torch.tensor([[2.0, s.CUT, 1.0, s.CUT]])  # cut before
    assert torch.equal(s.keep_top_k(once, 3), once)
    left = torch.isfinite(s.keep_top_p(once, 0.99))
    assert left.tolist() == [[True, False, True, False]]


def test_the_nucleus_is_the_smallest_set():
    probs = torch.tensor([[0.15, 0.5, 0.05, 0.3]])
    for p, kept in [(0.49, {1}), (0.51, {1, 3}), (0.79, {1, 3}), (0.81, {0, 1, 3})]:
        left = s.keep_top_p(probs.log(), p)[0]
        assert set(torch.isfinite(left).nonzero().flatten().tolist()) == kept


def test_draws_have_the_frequencies_of_the_processed_logits():
    """Chi-squared over 20,000 draws: 5 kept tokens, 4 degrees of freedom."""
    generator = torch.Generator().manual_seed(3)
    x = torch.tensor([[2.0, 0.5, 1.0, -1.0, 0.0, 1.5, -3.0]])
    settings = Sampling(temperature=1.5, top_k=5)
    draws = s.sample(x.expand(20_000, -1), settings, generator=generator)
    probs = settings.process(x)[0].softmax(-1)
    counts = torch.bincount(draws, minlength=7)
    assert counts[[3, 6]].sum() == 0
    kept = probs > 0
    expected = 20_000 * probs[kept]
    assert ((counts[kept] - expected).square() / expected).sum() < 18.5  # p = 0.001


def test_greedy_takes_the_likeliest_and_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    x = logits()
    chosen = s.sample(x, Sampling(temperature=0), generator=generator)
    assert torch.equal(chosen, x.argmax(-1))
    assert torch.equal(generator.get_state(), before)
    seen = torch.zeros(8, V, dtype=torch.bool).scatter_(1, chosen[:, None], True)
    settings = Sampling(temperature=0, repetition_penalty=1e9)
    assert (s.sample(x, settings, seen=seen) != chosen).all()


def test_a_low_temperature_goes_to_greedy_and_a_high_one_to_uniform():
    x = logits()
    sharp = Sampling(temperature=1e-3).process(x).softmax(-1)
    assert torch.allclose(sharp.amax(-1), torch.ones(8), atol=1e-3)
    flat = Sampling(temperature=1e6).process(x).softmax(-1)
    assert torch.allclose(flat, torch.full((8, V), 1 / V), atol=1e-4)


def test_logprobs_are_those_of_the_model_at_the_temperature():
    x, tokens = logits(), torch.randint(V, (8,))
    wanted = torch.distributions.Categorical(logits=x / 0.6).log_prob(tokens)
    torch.testing.assert_close(s.token_logprobs(x, tokens, 0.6), wanted)
    greedy = torch.distributions.Categorical(logits=x).log_prob(tokens)
    torch.testing.assert_close(s.token_logprobs(x, tokens, 0.0), greedy)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 is below 0"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"min_p": -0.1}, "min_p=-0.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0"),
    ],
)
def test_bad_settings_are_named_at_once(settings, said):
    with pytest.raises(ValueError, match=said):
        Sampling(**settings)


def test_a_penalty_without_the_past_is_refused():
    with pytest.raises(ValueError, match="needs `seen`"):
        s.sample(logits(), Sampling(repetition_penalty=2.0))
