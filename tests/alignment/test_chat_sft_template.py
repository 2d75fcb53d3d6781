"""The checker finds each way in which a template breaks, and nothing in a good one."""

from dataclasses import replace
from functools import partial

import pytest

from posttrain.alignment.chat_sft_checks import FIXES, PLAIN, check_template
from posttrain.alignment.chat_template import Chat, encode_chat, words_of
from posttrain.alignment.word_problem_tokenizer import ASSISTANT, END_TURN, tokenizer
from posttrain.foundations.tokenization import END

TOK = tokenizer()
MARK, STOP = TOK.special_id(ASSISTANT), TOK.special_id(END_TURN)


def faults(encode) -> set[str]:
    return {fault.name for fault in check_template(encode, TOK.specials, TOK.decode)}


def changed(change):
    """Our template with its result changed: change(chat, messages, prompt?) -> Chat."""

    def encode(messages, generation_prompt):
        chat = encode_chat(TOK, messages, generation_prompt)
        return change(chat, messages, generation_prompt)

    return encode


def without_prompt(chat, messages, generation_prompt):
    return encode_chat(TOK, messages)


def newline_in_prompt(chat, messages, generation_prompt):
    more = TOK.encode("\n") if generation_prompt else []
    return Chat([*chat.tokens, *more], [*chat.assistant, *[False] * len(more)])


def end_not_learned(chat, messages, generation_prompt):
    return replace(
        chat,
        assistant=[
            mine and token != STOP
            for token, mine in zip(chat.tokens, chat.assistant, strict=True)
        ],
    )


def reply_not_learned(chat, messages, generation_prompt):
    return replace(
        chat,
        assistant=[
            mine and token == STOP
            for token, mine in zip(chat.tokens, chat.assistant, strict=True)
        ],
    )


def end_missing(chat, messages, generation_prompt):
    pairs = zip(chat.tokens, chat.assistant, strict=True)
    kept = [(t, mine) for t, mine in pairs if not (mine and t == STOP)]
    return Chat([t for t, _ in kept], [mine for _, mine in kept])


def header_learned(chat, messages, generation_prompt):
    mask = [a or t == MARK for t, a in zip(chat.tokens, chat.assistant, strict=True)]
    return replace(chat, assistant=mask)


def all_learned(chat, messages, generation_prompt):
    return replace(chat, assistant=[True] * len(chat.tokens))


def nothing_learned(chat, messages, generation_prompt):
    return replace(chat, assistant=[False] * len(chat.tokens))


def two_starts(chat, messages, generation_prompt):
    start = [TOK.special_id(END)] * 2
    return Chat([*start, *chat.tokens], [False, False, *chat.assistant])


def short_mask(chat, messages, generation_prompt):
    return replace(chat, assistant=chat.assistant[:-1])


def stripped(chat, messages, generation_prompt):
    bare = [{**m, "content": m["content"].strip()} for m in messages]
    return encode_chat(TOK, bare, generation_prompt)


def rendered(chat, messages, generation_prompt):
    """As text first, then all of it with every special allowed."""
    tokens, mask = [], []
    for m in messages:
        written = TOK.encode(words_of(m), "all")
        ours = m["role"] == "assistant"
        tokens += [TOK.specials[f"<|{m['role']}|>"], *written, STOP]
        mask += [False, *[ours] * (len(written) + 1)]
    if generation_prompt:
        tokens, mask = [*tokens, MARK], [*mask, False]
    return Chat(tokens, mask)


def thoughts_dropped(chat, messages, generation_prompt):
    past = [{**m, "content": m["content"].split("</think>")[-1]} for m in messages[:-1]]
    return encode_chat(TOK, [*past, messages[-1]], generation_prompt)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without_prompt, {"no generation prompt"}),
        (newline_in_prompt, {"prompt is no prefix"}),
        (end_not_learned, {"end mark is not learned"}),
        (reply_not_learned, {"reply is not learned"}),
        (end_missing, {"end mark is missing"}),
        (header_learned, {"header is learned"}),
        (all_learned, {"header is learned", "others' words are learned"}),
        (nothing_learned, {"nothing is learned"}),
        (two_starts, {"double start"}),
        (short_mask, {"mask and tokens differ in length"}),
        (stripped, {"white space is changed"}),
        (rendered, {"content forges a mark"}),
        (thoughts_dropped, {"history is rewritten"}),
    ],
)
def test_each_broken_template_is_named_and_nothing_else_is(change, expected):
    assert faults(changed(change)) == expected


def test_every_fault_that_can_be_reported_is_tried_above():
    """So a new check without a template that it catches is noticed here."""
    assert len(FIXES) == 13


def test_ours_has_no_fault():
    assert not faults(partial(encode_chat, TOK))


def test_a_fault_says_what_was_seen_and_what_to_do():
    (fault,) = check_template(changed(newline_in_prompt), TOK.specials, TOK.decode)
    assert "comes '\\n' alone" in fault.found
    assert "token by token" in str(fault)
    assert "no white space at its end" in str(fault)


def test_probes_can_be_chosen_for_templates_that_know_fewer_roles():
    def no_system(messages, generation_prompt):
        if any(m["role"] in ("system", "tool") for m in messages):
            raise ValueError("this template knows two roles")
        return encode_chat(TOK, messages, generation_prompt)

    checked = check_template(no_system, TOK.specials, TOK.decode, probes=[PLAIN[1:]])
    assert not checked


# ----------------------------------------------------------------------- tool calls


def test_a_tool_call_is_the_assistants_and_its_result_is_not():
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    chat = encode_chat(
        TOK,
        [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "Hm.", "tool_calls": [call, call]},
            {"role": "tool", "content": "<tool_call>2"},
        ],
    )
    pairs = zip(chat.tokens, chat.assistant, strict=True)
    ours = TOK.decode([token for token, mine in pairs if mine])
    one = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    assert ours == f"Hm.{one}{one}<|end|>"
    assert chat.tokens.count(TOK.special_id("<tool_call>")) == 2


def test_messages_that_say_nothing_or_call_as_another_are_refused():
    with pytest.raises(ValueError, match="of the user has no content"):
        words_of({"role": "user"})
    with pytest.raises(ValueError, match="tool_calls in a message of the user"):
        words_of({"role": "user", "content": "", "tool_calls": [{"function": {}}]})
    assert (
        words_of(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "f"}}],
            }
        )
        == '<tool_call>{"name": "f"}</tool_call>'
    )
