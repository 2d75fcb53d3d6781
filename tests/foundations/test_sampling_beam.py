"""Beam search: what enumeration finds, and what transformers finds."""

import itertools

import pytest
import torch

from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.sampling import Sampling
from posttrain.foundations.sampling_beam import beam_search, beam_step
from posttrain.foundations.sampling_generate import Text, generate

PROMPTS = [[1, 2, 3, 0, 2], [3], [0, 0, 1]]
END = 3


def choosy(config, seed=0):
    """A fresh model is nearly uniform; this one is not."""
    torch.manual_seed(seed)
    model = GPT(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return choosy(GPTConfig(V=4, T=16, C=16, L=2, H=2, H_kv=1))


def logprob(model, prompt, answer):
    """The sum of log-probabilities, from one pass over the whole text."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer]))[0, len(prompt) - 1 : -1]
    logprobs = logits.log_softmax(-1)
    return sum(logprobs[i, token].item() for i, token in enumerate(answer))


def enumerated(model, prompt, n, penalty, stop):
    """Every text that ends within n tokens or is n long, best first."""
    texts = torch.tensor(list(itertools.product(range(4), repeat=n)))  # (4 ** n, n)
    whole = torch.cat([torch.tensor(prompt).expand(len(texts), -1), texts], dim=1)
    with torch.no_grad():
        logprobs = model(whole)[:, len(prompt) - 1 : -1].log_softmax(-1)
    totals = logprobs.gather(-1, texts[..., None])[..., 0].cumsum(-1)
    found = {}
    for text, total in zip(texts.tolist(), totals.tolist(), strict=True):
        length = next((i + 1 for i, t in enumerate(text) if t in stop), n)
        score = total[length - 1] / length**penalty
        found[tuple(text[:length])] = (score, total[length - 1])
    return sorted(found.items(), key=lambda item: -item[1][0])


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5, -1.0])
@pytest.mark.parametrize("stop", [(), (END,), (0, END)])
def test_wide_enough_it_finds_what_enumeration_finds(model, penalty, stop):
    results = beam_search(
        model, PROMPTS, 4, beams=81, stop=stop, length_penalty=penalty
    )
    for prompt, beams in zip(PROMPTS, results, strict=True):
        wanted = enumerated(model, prompt, 4, penalty, stop)[:20]
        assert [tuple(beam.tokens) for beam in beams[:20]] == [row[0] for row in wanted]
        for beam, (_, (score, total)) in zip(beams, wanted, strict=False):
            assert beam.logprob == pytest.approx(total, abs=1e-4)
            assert beam.score == pytest.approx(score, rel=1e-4)


def test_a_step_keeps_the_best_of_all_pairs():
    scores = torch.tensor([-1.0, -0.2])
    logprobs = torch.tensor([[-0.1, -3.0, -2.0], [-2.5, -0.5, -0.4]])
    totals, parents, tokens = beam_step(scores, logprobs, 3)
    assert totals.tolist() == pytest.approx([-0.6, -0.7, -1.1])
    assert (parents.tolist(), tokens.tolist()) == ([1, 1, 0], [2, 1, 0])


def test_one_beam_is_greedy(model):
    rows = generate(model, PROMPTS, 8, settings=Sampling(temperature=0))
    found = beam_search(model, PROMPTS, 8, beams=1)
    assert [[beam.tokens for beam in beams] for beams in found] == [
        [row.tokens] for row in rows
    ]
    for beams, row in zip(found, rows, strict=True):
        assert beams[0].logprob == pytest.approx(sum(row.logprobs), abs=1e-4)


def test_the_cache_follows_its_beam(model, monkeypatch):
    """Scores equal those of one pass; with a cache left behind they do not."""

    def honest():
        best = [beams[0] for beams in beam_search(model, PROMPTS, 8, beams=4)]
        return [
            abs(beam.logprob - logprob(model, prompt, beam.tokens)) < 1e-4
            for prompt, beam in zip(PROMPTS, best, strict=True)
        ]

    assert all(honest())
    select = Text.select

    def without_cache(text, lines):
        kept = text.cache
        if len(lines) == len(text.tokens):
            text.cache = []
        select(text, lines)
        text.cache = text.cache or kept

    monkeypatch.setattr(Text, "select", without_cache)
    assert not all(honest())


def test_a_prompt_does_not_notice_the_others(model):
    together = beam_search(model, PROMPTS, 8, beams=3, stop={END})
    for prompt, beams in zip(PROMPTS, together, strict=True):
        [alone] = beam_search(model, [prompt], 8, beams=3, stop={END})
        assert [beam.tokens for beam in beams] == [beam.tokens for beam in alone]


def test_a_search_ends_when_nothing_can_win_any_more(model):
    """Summed log-probabilities only fall: short answers end the search early."""
    passes = []
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    counts = {}
    for penalty in (0.0, 1.0):
        passes.clear()
        beam_search(model, [[1]], 12, beams=2, stop={0, 1, END}, length_penalty=penalty)
        counts[penalty] = len(passes)
    hook.remove()
    assert counts[0.0] < 12
    assert counts[0.0] <= counts[1.0]


@pytest.mark.parametrize("stops", [0, 1, 2])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 1.7])
def test_equal_to_transformers(stops, penalty):
    from posttrain.foundations.modern_architecture_hf import from_hf, make_llama

    shape = GPTConfig(V=23, T=48, C=32, L=2, H=4, H_kv=2, qk_norm=False)
    torch.manual_seed(0)
    theirs = make_llama(shape).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.3 * torch.randn_like(p))
    ours, prompts = from_hf(theirs), torch.randint(23, (3, 6))
    first = beam_search(ours, prompts.tolist(), 12)  # what is said becomes an end
    ends = {first[0][0].tokens[4], first[1][0].tokens[7]} if stops else set()
    ends = set(sorted(ends)[:stops])
    wanted = theirs.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=12,
        do_sample=False,
        length_penalty=penalty,
        early_stopping="never",
        eos_token_id=sorted(ends) or None,
        pad_token_id=22,
        output_scores=True,
        return_dict_in_generate=True,
    )
    found = beam_search(ours, prompts.tolist(), 12, stop=ends, length_penalty=penalty)
    flat = [beam for beams in found for beam in beams]
    assert len(flat) == 12
    if penalty <= 1:  # above, the longest may win everywhere
        assert any(len(beam.tokens) < 12 for beam in flat) == bool(ends)
    for beam, row, score in zip(
        flat, wanted.sequences, wanted.sequences_scores, strict=True
    ):
        assert beam.tokens == row[6 : 6 + len(beam.tokens)].tolist()
        assert beam.score == pytest.approx(score.item(), rel=1e-4)


def test_the_mode_of_the_model_is_put_back(model):
    model.train()
    beam_search(model, PROMPTS, 2)
    assert model.training
    model.eval()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beams": 0}, "beams=0"),
        ({"max_new": 0}, "max_new=0"),
        ({"max_new": 12}, "more than the model's 16"),
        ({"prompts": [[]]}, "at least one token"),
    ],
)
def test_bad_arguments_are_named(model, options, said):
    with pytest.raises(ValueError, match=said):
        beam_search(model, **{"prompts": PROMPTS, "max_new": 3, **options})
