"""A chat template put to the test: what breaks models silently, found before training.

    for fault in check_template(partial(encode_chat, tok), tok.specials, tok.decode):
        print(fault)

A wrong template raises no error. The model trains, the loss falls, and weeks later
somebody finds that it never stops, or that it is worse in the product than it was in
the notebook. Each fault here has a name, what was found, and what to do about it. The
checks see a template from outside, as tokens and a mask, so ours, a Jinja string and
anybody else's can be tested alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from posttrain.alignment.chat_template import Chat, Message
from posttrain.alignment.word_problem_tokenizer import END_TURN

Encode = Callable[[Sequence[Message], bool], Chat]  # messages, generation prompt?
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Fault:
    """name: which; found: what was seen, in tokens; fix: what to change."""

    name: str
    found: str
    fix: str

    def __str__(self) -> str:
        return f"{self.name}: {self.found}. {self.fix}"


FIXES = {
    "no generation prompt": "Where add_generation_prompt is set, end with the mark of"
    " the assistant's turn, or the model first has to guess whose turn it is",
    "prompt is no prefix": "What the model is given at inference must be, token by"
    " token, how the training sequence begins: write the generation prompt exactly as"
    " the assistant's header, with no white space at its end that the reply's first"
    " word would swallow",
    "history is rewritten": "A turn must not change when another follows. If you drop"
    " thoughts of earlier turns on purpose, train on each turn as a sample of its own",
    "double start": "Template and tokenizer both add the start token: take it out of"
    " the template, or encode with add_special_tokens=False",
    "mask and tokens differ in length": "The mask needs one entry for each token",
    "nothing is learned": "Enclose what the assistant writes in {% generation %} ..."
    " {% endgeneration %}, or the loss has no target",
    "end mark is missing": "End the assistant's turn with the token that generation"
    " stops at",
    "end mark is not learned": "Count the end mark as the assistant's: move it inside"
    " {% generation %}, or the model never learns to stop",
    "reply is not learned": "Everything that the assistant writes is a target, up to"
    " and with the end mark",
    "header is learned": "The assistant's mark is given at inference: start"
    " {% generation %} behind it",
    "others' words are learned": "What the user, the system or a tool says is read and"
    " not written: no target",
    "content forges a mark": "Encode content as ordinary text (no special tokens), or"
    " break the marks in it before rendering",
    "white space is changed": "Do not strip or pad content: what the model sees at"
    " inference must be what it was trained on",
}

PLAIN: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "<think>2+2=4</think>4"},
    {"role": "user", "content": "And 3 more?"},
    {"role": "assistant", "content": "Sure! 7"},
]
TOOLS: list[Message] = [
    {"role": "user", "content": "What is 12*34?"},
    {"role": "assistant", "content": "<tool_call>12*34</tool_call>"},
    {"role": "tool", "content": "408"},
    {"role": "assistant", "content": "It is 408."},
]
SPACED = (" leading", "trailing ", "\nlines\n\n", "two  spaces")


def check_template(
    encode: Encode,
    specials: Mapping[str, int],
    decode: Decode,
    end: str = END_TURN,
    probes: Sequence[Sequence[Message]] = (PLAIN, TOOLS),
) -> list[Fault]:
    """All faults that the probes bring to light, each name once; [] for a good one.

    encode: messages and whether a generation prompt is wanted, to a `Chat`.
    specials: the marks that content must not forge, with their ids.
    end: the name of the token at which generation stops.
    probes: conversations in which the roles that the template knows take turns.
    """
    found: dict[str, Fault] = {}

    def report(name: str, what: str) -> None:
        found.setdefault(name, Fault(name, what, FIXES[name]))

    for messages in probes:
        chat = encode(messages, False)
        _check_start(chat, specials, decode, report)
        if len(chat.assistant) != len(chat.tokens):
            report(
                "mask and tokens differ in length",
                f"{len(chat.tokens)} tokens, {len(chat.assistant)} entries",
            )
            continue
        spans = _check_prompts(encode, messages, chat, decode, report)
        _check_mask(chat, spans, specials[end], decode, report)
    _check_content(encode, specials, decode, report)
    return list(found.values())


@dataclass(frozen=True)
class Span:
    """Where an assistant's turn stands: its header, and what it wrote."""

    header: int
    start: int
    stop: int


def _check_start(chat: Chat, specials, decode, report) -> None:
    first = chat.tokens[:2]
    if len(first) == 2 and first[0] == first[1] and first[0] in specials.values():
        report("double start", f"the sequence begins with {decode(first)!r}")


def _check_prompts(encode, messages, chat, decode, report) -> list[Span]:
    """Compare the prompt of each assistant's turn with the whole; where turns stand."""
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = encode(messages[:i], False).tokens
        prompt = encode(messages[:i], True).tokens
        until = encode(messages[: i + 1], False).tokens
        if prompt == before:
            report(
                "no generation prompt",
                f"the prompt ends in {decode(prompt[-3:])!r} with and without one",
            )
        at = _parting(prompt, until)
        if at < len(prompt):
            report("prompt is no prefix", _parted(prompt, until, at, decode))
        at = _parting(until, chat.tokens)
        if at < len(until):
            report("history is rewritten", _parted(until, chat.tokens, at, decode))
        header, start = len(before), len(prompt)
        if prompt == before or prompt != until[:start]:  # the mask must say where
            written = (
                t for t in range(header, len(until)) if any(chat.assistant[t : t + 1])
            )
            header = start = next(written, len(until))
        spans.append(Span(header, start, len(until)))
    return spans


def _check_mask(chat, spans, end: int, decode, report) -> None:
    """The mask against what it should be: each turn behind its header, nothing else."""
    if not any(chat.assistant):
        report("nothing is learned", "no token is marked as the assistant's")
        return
    outside = list(chat.assistant)
    for span in spans:
        turn = range(span.start, min(span.stop, len(chat.tokens)))
        ends = [t for t in turn if chat.tokens[t] == end]
        if not ends:
            said = decode([chat.tokens[t] for t in turn])
            report("end mark is missing", f"{decode([end])!r} is not in {said!r}")
        elif not chat.assistant[ends[0]]:
            report("end mark is not learned", f"{decode([end])!r} is no target")
        reply = range(span.start, ends[0] if ends else turn.stop)
        left_out = [chat.tokens[t] for t in reply if not chat.assistant[t]]
        if left_out:
            report("reply is not learned", f"{decode(left_out)!r} is no target")
        header = range(span.header, span.start)
        learned = [chat.tokens[t] for t in header if chat.assistant[t]]
        if learned:
            report("header is learned", f"{decode(learned)!r} is a target")
        for t in (*header, *turn):
            outside[t] = False
    others = [i for i, mine in zip(chat.tokens, outside, strict=True) if mine]
    if others:
        report("others' words are learned", f"{decode(others)!r} is a target")


def _check_content(encode, specials, decode, report) -> None:
    """What a user writes: no mark comes of it, and no white space is lost."""
    for mark, token in specials.items():
        # letters around the mark: what it merges with is not the question here
        plain = encode([{"role": "user", "content": "a b"}], False).tokens
        forged = encode([{"role": "user", "content": f"a{mark}b"}], False).tokens
        if forged.count(token) > plain.count(token):
            report(
                "content forges a mark", f"a user's text {mark!r} becomes that token"
            )
    for content in SPACED:
        for role in ("user", "assistant"):
            asked = {"role": "user", "content": "a"}
            messages = [asked, {"role": role, "content": content}]
            messages = messages[-1:] if role == "user" else messages
            if content not in decode(encode(messages, False).tokens):
                report("white space is changed", f"{content!r} is not in the sequence")


def _parting(a: Sequence[int], b: Sequence[int]) -> int:
    """The first place where a and b differ, or where the shorter ends."""
    for at, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return at
    return min(len(a), len(b))


def _parted(a: Sequence[int], b: Sequence[int], at: int, decode) -> str:
    """Both sides of a difference, with what stands before it."""
    near = decode(list(a[max(0, at - 3) : at]))
    there, here = decode(list(a[at : at + 3])), decode(list(b[at : at + 3]))
    return f"behind {near!r} comes {there!r} alone, {here!r} in the whole"
