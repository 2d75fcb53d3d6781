"""Losses and units, n-gram tables, Bengio's network, estimates of the entropy."""

import itertools
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from posttrain.foundations import language_modeling as L
from posttrain.foundations import language_modeling_entropy as E
from posttrain.foundations import language_modeling_mlp as M
from posttrain.foundations import language_modeling_ngram as N

TEXT = torch.tensor([0, 1, 2, 0, 1, 3, 0, 1, 2, 2, 1, 0, 3, 3, 0, 1, 2, 0, 2, 1])
V = 5  # token 4 never occurs


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------ losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_cross_entropy_and_its_gradient_are_pytorchs(dtype, scale):
    logits = (torch.randn(7, 5, generator=seeded()) * scale).to(dtype)
    targets = torch.tensor([0, 4, -100, 2, 2, -100, 1])
    theirs = logits.clone().requires_grad_()
    loss = F.cross_entropy(theirs, targets)
    loss.backward()
    torch.testing.assert_close(L.cross_entropy(logits, targets), loss.detach())
    gradient = L.cross_entropy_gradient(logits, targets)
    torch.testing.assert_close(gradient, theirs.grad)
    assert not gradient[2].any()
    each = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(L.token_losses(logits, targets), each)


def test_gradient_is_what_finite_differences_say():
    logits = torch.randn(3, 4, generator=seeded()).double()
    targets = torch.tensor([1, -100, 3])
    gradient, eps = L.cross_entropy_gradient(logits, targets), 1e-5
    for i, j in itertools.product(range(3), range(4)):
        step = torch.zeros(3, 4, dtype=torch.float64)
        step[i, j] = eps
        up, down = (L.cross_entropy(logits + s * step, targets) for s in (1, -1))
        assert (up - down).item() / (2 * eps) == pytest.approx(
            gradient[i, j].item(), abs=1e-9
        )


def test_windows_are_contexts_and_targets():
    assert L.windows(torch.arange(4), 2).tolist() == [[0, 1, 2], [1, 2, 3]]
    assert L.windows(torch.arange(3), 0).tolist() == [[0], [1], [2]]
    for k in (-1, 3):
        with pytest.raises(ValueError, match=f"k={k} tokens .* fit into 3"):
            L.windows(torch.arange(3), k)


# ------------------------------------------------------------------- units


def test_units_of_a_score():
    score = L.Score.of(torch.full((4,), math.log(2)), "né 猫")  # 4 tokens, 7 bytes
    assert (score.tokens, score.characters, score.bytes) == (4, 4, 7)
    assert score.nats_per_token == pytest.approx(math.log(2))
    assert score.perplexity == pytest.approx(2)
    assert score.bits_per_character == pytest.approx(1)
    assert score.bits_per_byte == pytest.approx(4 / 7)


def test_scores_of_parts_add_up():
    losses, text = torch.rand(10, generator=seeded()), "naïve text"
    parts = L.Score.of(losses[:7], text[:7]) + L.Score.of(losses[7:], text[7:])
    whole = L.Score.of(losses, text)
    assert parts.perplexity == pytest.approx(whole.perplexity)
    assert (parts.tokens, parts.bytes) == (whole.tokens, whole.bytes)


def test_perplexity_is_the_chain_rule_by_hand():
    model = M.MLP(M.MLPConfig(V, k=2, D=3, H=4))
    rows = L.windows(TEXT, 2)
    product = 1.0
    for a, b, w in rows.tolist():
        product *= model(torch.tensor([[a, b]])).softmax(-1)[0, w].item()
    found = L.score(model, rows, "x" * len(rows), B=5)  # uneven batches
    assert found.perplexity == pytest.approx(product ** (-1 / len(rows)), rel=1e-5)


def test_probabilities_of_all_texts_add_up_to_one():
    model = M.MLP(M.MLPConfig(3, k=1, D=2, H=4))
    start, total = torch.tensor([0]), 0.0
    for text in itertools.product(range(3), repeat=4):
        tokens = torch.cat([start, torch.tensor(text)])
        total += math.exp(-L.score(model, L.windows(tokens, 1), "1234").nats)
    assert total == pytest.approx(1, abs=1e-5)


# ----------------------------------------------------------------- n-grams


def test_tables_hold_the_counts():
    tables = N.count(TEXT, 3, V)
    ids = TEXT.tolist()
    for table in tables:
        n = table.n
        due = Counter(tuple(ids[i : i + n]) for i in range(len(ids) - n + 1))
        rows = torch.cartesian_prod(*[torch.arange(V)] * n).view(-1, n)
        code = N.codes(rows, V)
        assert table.count(code).tolist() == [due[tuple(r)] for r in rows.tolist()]
        total, kinds = Counter(), Counter()
        for gram, c in due.items():
            total[gram[:-1]] += c
            kinds[gram[:-1]] += 1
        heads = [tuple(r[:-1]) for r in rows.tolist()]
        assert table.total(code).tolist() == [total[h] for h in heads]
        assert table.kind(code).tolist() == [kinds[h] for h in heads]


def test_codes_that_do_not_fit_are_refused():
    assert N.codes(torch.tensor([[2, 0, 1]]), 10).tolist() == [201]
    with pytest.raises(ValueError, match="11-grams of 65 tokens"):
        N.codes(torch.zeros(1, 11, dtype=torch.long), 65)


SMOOTHED = {
    "add_k": lambda tables, rows: N.add_k(tables[-1], rows, 0.3),
    "interpolated": lambda tables, rows: N.interpolated(tables, rows, 1.5),
    "kneser_ney": lambda tables, rows: N.kneser_ney(N.continuation(tables), rows),
}


@pytest.mark.parametrize("name", SMOOTHED)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_smoothing_gives_distributions(name, n):
    """Contexts seen and not seen, tokens never seen: rows sum to 1, nothing is 0."""
    rows = torch.cartesian_prod(*[torch.arange(V)] * n).view(-1, n)
    p = SMOOTHED[name](N.count(TEXT, n, V), rows)
    assert (p > 0).all()
    torch.testing.assert_close(p.view(-1, V).sum(1), torch.ones_like(p[: len(p) // V]))


def test_add_zero_is_the_relative_frequency():
    table = N.count(TEXT, 2, V)[-1]
    rows = torch.tensor([[0, 1], [1, 0], [0, 4], [4, 0]])
    assert N.add_k(table, rows, 0.0).tolist() == pytest.approx([4 / 6, 1 / 5, 0, 0])


def by_dictionaries(ids, n, D):
    """Kneser-Ney of Chen and Goodman 1999, equation by equation, with dicts."""
    grams = [Counter(tuple(ids[i : i + m]) for i in range(len(ids) - m + 1))
             for m in range(1, n + 1)]  # fmt: skip

    def c(gram):
        if len(gram) == n:
            return grams[n - 1][gram]
        longer = grams[len(gram)]
        return len({g for g in longer if g[1:] == gram})

    def p(h, w):
        total = sum(c((*h, x)) for x in range(V))
        lower = 1 / V if not h else p(h[1:], w)
        if not total:
            return lower
        kinds = sum(c((*h, x)) > 0 for x in range(V))
        d = D[len(h)]
        return max(c((*h, w)) - d, 0) / total + d * kinds / total * lower

    return p


@pytest.mark.parametrize("n", [1, 2, 3])
def test_kneser_ney_equals_the_definition(n):
    tables = N.continuation(N.count(TEXT, n, V))
    p = by_dictionaries(TEXT.tolist(), n, [N.discount(t) for t in tables])
    rows = torch.cartesian_prod(*[torch.arange(V)] * n).view(-1, n)
    due = [p(tuple(r[:-1]), r[-1]) for r in rows.tolist()]
    assert N.kneser_ney(tables, rows).tolist() == pytest.approx(due)


def test_discount_follows_the_counts_of_counts():
    table = N.Table.of(torch.arange(4), torch.tensor([1, 1, 2, 7]), 1, 4)
    assert N.discount(table) == pytest.approx(2 / 4)
    table = N.Table.of(torch.arange(3), torch.tensor([1, 2, 2]), 1, 3)
    assert N.discount(table) == pytest.approx(1 / 5)
    assert N.discount(N.Table.of(torch.arange(1), torch.tensor([3]), 1, 1)) == 0.5


def test_interpolation_by_hand():
    tables = N.count(torch.tensor([0, 1, 0, 1, 1]), 2, 2)
    unigram = (3 + 2 * 0.5) / (5 + 2)
    due = (2 + 2 * unigram) / (2 + 2)  # p(1 | 0)
    p = N.interpolated(tables, torch.tensor([[0, 1]]), 2.0)
    assert p.item() == pytest.approx(due)


def test_ngram_is_a_model_like_any_other():
    tables = N.continuation(N.count(TEXT, 3, V))
    model, rows = N.NGram(tables), L.windows(TEXT, 2)
    paid = L.score(model, rows, "x" * len(rows))
    due = -N.kneser_ney(tables, rows).log().sum().item()
    assert paid.nats == pytest.approx(due)


# ---------------------------------------------------------------- networks


def test_mlp_is_bengios_network():
    model = M.MLP(M.MLPConfig(V, k=3, D=2, H=6))
    contexts = TEXT[:12].view(4, 3)
    same = nn.Sequential(model.embed, nn.Flatten(), model.hidden, nn.Tanh(), model.head)
    torch.testing.assert_close(model(contexts), same(contexts))
    assert sum(p.numel() for p in model.parameters()) == 5 * 2 + 7 * 6 + 7 * 5


def test_starts_have_the_scales_they_promise():
    contexts = torch.randint(50, (4000, 3), generator=seeded())
    for name, (before_tanh, logit) in M.START.items():
        torch.manual_seed(0)
        model = M.MLP(M.MLPConfig(50, k=3, D=32, H=256, start=name))
        x = model.embed(contexts).flatten(1)
        assert model.hidden(x).std().item() == pytest.approx(before_tanh, rel=0.1)
        size = model.activations(contexts).square().mean().sqrt().item()
        assert model(contexts).std().item() == pytest.approx(logit * size, rel=0.1)
        assert not model.hidden.bias.any() and not model.head.bias.any()
    with pytest.raises(ValueError, match="'wild'; known: calm, loud, saturated"):
        M.MLP(M.MLPConfig(V, start="wild"))


def test_saturation_counts_shut_and_dead_units():
    model = M.MLP(M.MLPConfig(V, k=1, D=1, H=3))
    with torch.no_grad():
        model.embed.weight.copy_(torch.tensor([[1.0], [1], [1], [1], [0]]))
        model.hidden.weight.copy_(torch.tensor([[0.0], [50.0], [50.0]]))
        model.hidden.bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    found = M.saturation(model, torch.tensor([[0], [4]]))
    assert found["shut"] == pytest.approx(3 / 6)
    assert found["dead"] == pytest.approx(1 / 3)
    assert found["slope"] == pytest.approx(3 / 6)


def test_training_learns_a_rule_and_reports_it():
    text = torch.tensor([0, 1, 2, 0, 1, 3] * 50)  # needs three tokens of context
    config = M.TrainConfig(steps=120, B=64, lr=3e-2, points=4)
    final = {}
    for k in (1, 3):
        torch.manual_seed(0)
        model = M.MLP(M.MLPConfig(4, k=k, D=4, H=16))
        rows = L.windows(text, k)
        curve = M.train(
            model, text, config, seeded(), lambda m, r=rows: L.score(m, r, "").nats
        )
        assert curve["step"] == [30, 60, 90, 120]
        assert len(curve["loss"]) == 120
        final[k] = curve["val"][-1] / len(rows)
    assert final[1] > 0.2 > 0.02 > final[3]


def test_learning_rate_ends_at_a_tenth():
    config = M.TrainConfig(steps=10, lr=1.0)
    rates = [M.learning_rate(step, config) for step in range(11)]
    assert rates[0] == 1.0 and rates[10] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)


def test_the_matrix_goes_to_the_counts():
    counts = torch.tensor([[3.0, 1, 0], [1, 1, 2], [5, 0, 5]], dtype=torch.float64)
    W, gaps = M.descend(counts, 3000)
    goal = counts / counts.sum(1, keepdim=True)
    torch.testing.assert_close(W.softmax(1), goal, atol=3e-4, rtol=0)
    assert gaps == sorted(gaps, reverse=True)
    # pairs never seen approach 0 like 1 / (lr t), and the gap with them
    assert gaps[2999] * 2999 == pytest.approx(gaps[1499] * 1499, rel=0.02)
    with pytest.raises(ValueError, match="a row of counts is empty"):
        M.descend(torch.tensor([[1.0, 1], [0, 0]]), 1)


def test_the_trained_bigram_is_the_counted_one():
    V4 = 4
    table = N.count(TEXT, 2, V4)[-1]
    counts = table.count(torch.arange(V4 * V4)).view(V4, V4).double()
    W, _ = M.descend(counts, 4000)
    model = M.Bigram(V4)
    with torch.no_grad():
        model.W.copy_(W)
    rows = L.windows(TEXT, 1)
    trained = L.score(model, rows, "").nats
    counted = -N.add_k(table, rows, 0.0).log().sum().item()
    assert trained == pytest.approx(counted, abs=0.01)
    assert trained > counted  # no table beats the counts on their own text


# --------------------------------------------------------------- sampling


def test_samples_follow_the_model():
    chain = M.Bigram(3)
    with torch.no_grad():
        chain.W.copy_(torch.tensor([[0.7, 0.2, 0.1], [0, 1, 0], [0.5, 0, 0.5]]).log())
    for model, k in ((chain, 1), (lambda c: chain(c), 2)):
        prompt = torch.tensor([2, 0])
        drawn = L.sample(model, prompt, 8, k, seeded())
        assert drawn[:2].tolist() == [2, 0] and drawn.shape == (10,)
        assert drawn.equal(L.sample(model, prompt, 8, k, seeded()))
    firsts = [
        L.sample(chain, torch.tensor([0]), 1, 1, seeded(s))[1] for s in range(800)
    ]
    share = torch.bincount(torch.stack(firsts), minlength=3) / 800
    torch.testing.assert_close(share, torch.tensor([0.7, 0.2, 0.1]), atol=0.07, rtol=0)
    with pytest.raises(ValueError, match="a prompt of 1 tokens, the model reads 2"):
        L.sample(chain, torch.tensor([0]), 1, 2, seeded())


# ---------------------------------------------------------------- entropy


def test_plug_in_is_what_the_counts_pay_for_their_own_text():
    tables = N.count(TEXT, 3, V)
    for table, bits in zip(tables, E.plug_in(tables), strict=True):
        rows = L.windows(TEXT, table.n - 1)
        paid = -N.add_k(table, rows, 0.0).log2().mean().item()
        assert bits == pytest.approx(paid)


def test_ranks_count_guesses_and_break_ties_by_token():
    logits = torch.tensor([[0.0, 3.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    assert E.ranks(logits, torch.tensor([2, 0, 2])).tolist() == [2, 1, 3]


def test_shannon_bounds_of_known_games():
    always = torch.ones(50, dtype=torch.long)
    assert E.shannon_bounds(always, 4) == pytest.approx((0, 0))
    fair = torch.arange(1, 5).repeat(10)  # all ranks alike: 2 bits, both ways
    assert E.shannon_bounds(fair, 4) == pytest.approx((2, 2))
    mostly = torch.tensor([1, 1, 1, 2])
    lower, upper = E.shannon_bounds(mostly, 4)
    assert lower == pytest.approx(2 * 0.25 * 1)
    assert upper == pytest.approx(0.75 * math.log2(4 / 3) + 0.25 * 2)


def test_bounds_hold_for_an_ideal_guesser():
    """The true table guesses: its entropy lies between the two bounds."""
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.25, 0.35, 0.4]])
    model = M.Bigram(3)
    with torch.no_grad():
        model.W.copy_(p.log())
    text = L.sample(model, torch.tensor([0]), 4000, 1, seeded())
    rows = L.windows(text, 1)
    with torch.no_grad():
        guesses = E.ranks(model(rows[:, :1]), rows[:, 1])
    lower, upper = E.shannon_bounds(guesses, 3)
    entropy = L.score(model, rows, "x" * 4000).bits_per_character
    assert lower < entropy < upper


def test_the_last_token_is_no_context():
    """A context count is not the count of the context as an n-gram: the text ends."""
    tables = N.count(torch.tensor([0, 1]), 2, 2)
    code = N.codes(torch.tensor([[1, 0]]), 2)
    assert tables[1].total(code).item() == 0
    assert tables[0].count(torch.tensor([1])).item() == 1
