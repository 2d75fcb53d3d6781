"""Generation in batches: what a row gets alone, with stops, tools and log-probs."""

import pytest
import torch

from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.sampling import Sampling, token_logprobs
from posttrain.foundations.sampling_generate import generate

GREEDY = Sampling(temperature=0)
PROMPTS = [[5, 6, 7, 8, 9], [11], [3, 3, 20]]
V = 23


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = GPT(GPTConfig(V=V, T=48, C=32, L=2, H=4, H_kv=2))
    with torch.no_grad():  # a fresh model is nearly uniform; make it choosy
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model.double()


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def alone(model, prompt, n, penalty=1.0):
    """Greedy, with nothing of ours: the whole text anew for each token."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(n):
            logits = model(torch.tensor([tokens]))[0, -1]
            for token in set(tokens):
                logits[token] *= 1 / penalty if logits[token] > 0 else penalty
            tokens.append(logits.argmax().item())
    return tokens[len(prompt) :]


def test_a_padded_batch_equals_each_row_alone(model):
    rows = generate(model, PROMPTS, 20, settings=GREEDY)
    assert [row.tokens for row in rows] == [alone(model, p, 20) for p in PROMPTS]
    assert not any(row.stopped for row in rows)


def test_logprobs_are_those_of_one_forward_pass(model):
    settings = Sampling(temperature=0.7, top_k=5)
    rows = generate(model, PROMPTS, 12, settings=settings, generator=seeded())
    for prompt, row in zip(PROMPTS, rows, strict=True):
        whole = torch.tensor([prompt + row.tokens])
        with torch.no_grad():
            logits = model(whole)[0, len(prompt) - 1 : -1]
        wanted = token_logprobs(logits, torch.tensor(row.tokens), 0.7)
        torch.testing.assert_close(torch.tensor(row.logprobs), wanted)


def test_the_same_seed_gives_the_same_text(model):
    first, again = (generate(model, PROMPTS, 9, generator=seeded(4)) for _ in "ab")
    other = generate(model, PROMPTS, 9, generator=seeded(5))
    assert [row.tokens for row in first] == [row.tokens for row in again]
    assert [row.tokens for row in first] != [row.tokens for row in other]


def test_rows_stop_one_by_one_and_the_others_do_not_notice(model):
    full = [alone(model, prompt, 25) for prompt in PROMPTS]
    stop = {full[0][3], full[2][8]}
    rows = generate(model, PROMPTS, 25, stop=stop, settings=GREEDY)
    for row, whole in zip(rows, full, strict=True):
        ends = [i for i, token in enumerate(whole) if token in stop]
        wanted = whole[: ends[0] + 1] if ends else whole
        assert (row.tokens, row.stopped) == (wanted, bool(ends))
        assert len(row.logprobs) == len(row.forced) == len(row.tokens)
    assert len({len(row.tokens) for row in rows}) > 1


def test_no_work_is_done_for_rows_that_have_ended(model):
    sizes = []
    hook = model.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    full = [alone(model, prompt, 20) for prompt in PROMPTS]
    sizes.clear()
    rows = generate(model, PROMPTS, 20, stop={full[0][0], full[1][0]}, settings=GREEDY)
    hook.remove()
    assert sizes[0] == 3 and set(sizes[1:]) <= {1, 2}
    assert len(rows[0].tokens) == 1


def test_tokens_of_a_tool_are_read_marked_and_not_the_models_choice(model):
    def tool(row, tokens):
        return [1, 2, 3] if row != 1 and len(tokens) == 4 else []

    rows = generate(model, PROMPTS, 12, settings=GREEDY, force=tool)
    for i, (prompt, row) in enumerate(zip(PROMPTS, rows, strict=True)):
        start = alone(model, prompt, 4)
        if i == 1:
            assert row.tokens == alone(model, prompt, 12) and not any(row.forced)
            continue
        given = [*start, 1, 2, 3]
        assert row.tokens == given + alone(model, prompt + given, 5)
        assert row.forced == [False] * 4 + [True] * 3 + [False] * 5
        with torch.no_grad():
            logits = model(torch.tensor([prompt + row.tokens]))[0]
        wanted = token_logprobs(logits[len(prompt) - 1 : -1], torch.tensor(row.tokens))
        torch.testing.assert_close(torch.tensor(row.logprobs), wanted)


def test_a_tool_may_end_a_row(model):
    rows = generate(model, [[1]], 9, stop={7}, force=lambda row, tokens: [4, 7])
    assert rows[0].tokens[1:] == [4, 7] and rows[0].stopped


def test_a_penalty_counts_prompt_and_answer_but_no_padding(model):
    settings = Sampling(temperature=0, repetition_penalty=1.5)
    rows = generate(model, PROMPTS, 15, settings=settings)
    assert [row.tokens for row in rows] == [alone(model, p, 15, 1.5) for p in PROMPTS]
    assert rows[0].tokens != alone(model, PROMPTS[0], 15)


def test_sliding_forgets_the_older_half(model):
    rows = generate(model, PROMPTS, 80, settings=GREEDY, slide=True)
    text = PROMPTS[0] + rows[0].tokens
    assert rows[0].tokens[:43] == alone(model, PROMPTS[0], 43)
    seen = text[49 - 24 : 49]  # 49 tokens did not fit into 48: 24 are left
    assert text[49:60] == alone(model, seen, 11)
    assert [len(row.tokens) for row in rows] == [80] * 3


def test_streaming_tells_each_token_as_it_comes(model):
    told = [[], [], []]
    rows = generate(model, PROMPTS, 6, on_token=lambda i, token: told[i].append(token))
    assert told == [row.tokens for row in rows]


def test_the_mode_of_the_model_is_put_back(model):
    model.train()
    generate(model, PROMPTS, 2)
    assert model.training
    with pytest.raises(RuntimeError):
        generate(model, PROMPTS, 2, force=raises)
    assert model.training
    model.eval()
    generate(model, PROMPTS, 2)
    assert not model.training


def raises(row, tokens):
    raise RuntimeError("the tool broke")


@pytest.mark.parametrize(
    ("prompts", "max_new", "said"),
    [
        ([], 5, "at least one token"),
        ([[1], []], 5, "at least one token"),
        ([[1]], 0, "max_new=0"),
        ([[1] * 49], 1, "49 tokens, the model reads at most 48"),
        ([[1] * 40], 9, "slide=True"),
    ],
)
def test_bad_lengths_are_named(model, prompts, max_new, said):
    with pytest.raises(ValueError, match=said):
        generate(model, prompts, max_new)
