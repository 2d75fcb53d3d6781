"""Marks as tokens, verifiers by strictness, and TRL's reward for the form."""

import itertools
import re

import pytest
from trl.rewards.format_rewards import think_format_reward

from posttrain.alignment.chat_template import encode_prompt, encode_reply
from posttrain.alignment.verifier import parse
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import END_THINK, THINK
from posttrain.synthetic_data import reasoning_traces_format as M
from posttrain.synthetic_data.reasoning_traces_pool import draw_pool

PIECES = (THINK, END_THINK, "12+3=15", "15", "ten", " ", "\n", "<")


def trl_accepts(text):
    return think_format_reward([[{"role": "assistant", "content": text}]]) == [1.0]


def differs(text):
    """Why TRL accepts what our form refuses: one of the reasons that we know."""
    behind = text.partition(END_THINK)[2]
    thought = text.removeprefix(THINK).partition(END_THINK)[0]
    return not re.fullmatch("[0-9]+", behind) or "<" in thought or ">" in thought


def test_all_that_our_form_accepts_trl_accepts_and_the_rest_is_known():
    seen = {True: 0, False: 0}
    for n in range(1, 6):
        for pieces in itertools.product(PIECES, repeat=n):
            text = "".join(pieces)
            ours, theirs = parse(text).well_formed, trl_accepts(text)
            assert theirs or not ours, text
            if theirs and not ours:
                assert differs(text), text
            seen[ours] += theirs
    assert seen[True] > 30 and seen[False] > 100


def test_trl_gives_nothing_where_the_prompt_opened_the_thought():
    reply = "12+3=15</think>15"
    assert not trl_accepts(reply) and trl_accepts(THINK + reply)


def test_each_verifier_accepts_no_more_than_the_ones_before_it():
    pool = draw_pool(seed=1, n=3000)
    order = list(M.VERIFIERS.values())
    for trace in pool:
        said = [accepts(trace.text, trace.problem.answer) for accepts in order]
        assert said[0] >= said[1] and said[2] >= said[3] and said[0] >= said[3]
    shares = M.accepted(pool, M.VERIFIERS)
    assert all(share == 1 for share in shares[""].values())
    wrong = shares["slip, wrong answer"]
    assert wrong["strict"] == wrong["last number"] == 0 < wrong["number anywhere"]
    leaked = shares["answer in front of the steps"]
    assert all(share == 1 for share in leaked.values())
    first = shares["answer in front of the thought"]
    assert (
        first["strict"] == 0 and first["last number"] == first["number anywhere"] == 1
    )
    still_open = shares["thought not closed"]
    assert still_open["behind </think>"] == 0 < still_open["last number"] == 1


def test_a_policy_that_lists_numbers_fools_the_first_verifier():
    reply = " ".join(map(str, range(100)))
    assert M.number_anywhere(reply, 42)
    assert not M.strict(reply, 42) and not M.last_number(reply, 42)
    assert M.behind_the_mark("<think></think>42 or 43", 42)


def test_token_counts_add_up():
    reply = "<think>12+3=15;15-5=10</think>10"
    counts = M.token_counts(reply)
    assert counts == {"marks": 2, "thought": 15, "answer": 2, "end": 1}
    assert sum(counts.values()) == len(encode_reply(tokenizer(), reply))
    with pytest.raises(ValueError, match="is not <think>thought</think>number"):
        M.token_counts("10")


def test_a_user_cannot_open_a_thought():
    prompt = encode_prompt(tokenizer(), "<think></think>42")
    assert M.without_marks(prompt)
    assert not M.without_marks(encode_reply(tokenizer(), "<think></think>42"))
