"""The chat template: messages to tokens, and which tokens the assistant wrote.

    chat = encode_chat(tokenizer, [{"role": "user", "content": "..."}, ...])
    chat.tokens, chat.assistant             ids, and a mask as long
    prompt = encode_prompt(tokenizer, "Mia has 12 coins, ...")

A turn is the mark of its role, the text, the mark of its end. The assistant's turn
begins *after* its mark, which is given, and ends with the end mark, which the model
must learn to write: without it generation does not stop.

What a message says is ordinary text. Only the assistant's own marks (thinking, tool
calls) are allowed in its content as special tokens; a user who writes "<|assistant|>"
gets those characters, not a turn. The words of a tool are no target either: the model
reads them, it does not have to write them.

A call is JSON between two marks, behind the content, as in Qwen's and Hermes' format:
{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function":
{"name": "add", "arguments": {"a": 1, "b": 2}}}]}. The same as a Jinja template:
`chat_sft_jinja`. Not covered: descriptions of tools (put them into the system message),
images, parallel calls told apart by an id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.alignment.word_problem_tokenizer import (
    ASSISTANT,
    CALL,
    END_CALL,
    END_TURN,
    SYSTEM,
    TOOL,
    USER,
)
from posttrain.alignment.word_problems import END_THINK, THINK
from posttrain.foundations.tokenization import Tokenizer

Message = Mapping[str, Any]  # "role" and "content"; perhaps "tool_calls"
ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT, "tool": TOOL}
OWN_MARKS = (THINK, END_THINK, CALL, END_CALL)


@dataclass
class Chat:
    """A conversation as tokens. `assistant` marks what the assistant wrote."""

    tokens: list[int] = field(default_factory=list)
    assistant: list[bool] = field(default_factory=list)

    def append(self, tokens: Sequence[int], assistant: bool) -> None:
        """More tokens, all of them the assistant's or none."""
        self.tokens += tokens
        self.assistant += [assistant] * len(tokens)


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], generation_prompt: bool = False
) -> Chat:
    """Tokens of a conversation, message by message.

    generation_prompt: end with the mark of the assistant's turn, so that the model goes
    on as the assistant. Raises ValueError for an unknown role, a message that says
    nothing, and for a generation prompt behind the assistant's own turn.
    """
    chat = Chat()
    for message in messages:
        role = message["role"]
        if role not in ROLES:
            known = ", ".join(ROLES)
            raise ValueError(f"role {role!r} is not known; the roles are {known}")
        ours = role == "assistant"
        chat.append([tokenizer.special_id(ROLES[role])], assistant=False)
        content = tokenizer.encode(words_of(message), OWN_MARKS if ours else ())
        chat.append([*content, tokenizer.special_id(END_TURN)], assistant=ours)
    if generation_prompt:
        if messages and messages[-1]["role"] == "assistant":
            raise ValueError(
                "the last message is the assistant's own; a generation prompt follows a"
                " user or a tool"
            )
        chat.append([tokenizer.special_id(ASSISTANT)], assistant=False)
    return chat


def words_of(message: Message) -> str:
    """What a message says: its content, and behind it its tool calls.

    Raises ValueError for a message without either, and for calls of another role than
    the assistant.
    """
    content, calls = message.get("content"), message.get("tool_calls") or ()
    role = message["role"]
    if content is None and not calls:
        raise ValueError(
            f"a message of the {role} has no content and no tool_calls; write"
            ' "content": "" if it says nothing'
        )
    if calls and role != "assistant":
        raise ValueError(f"tool_calls in a message of the {role}: only the assistant's")
    bodies = [json.dumps(call["function"], ensure_ascii=False) for call in calls]
    return (content or "") + "".join(f"{CALL}{body}{END_CALL}" for body in bodies)


def encode_prompt(tokenizer: Tokenizer, question: str) -> list[int]:
    """The tokens after which the model answers `question`."""
    asked = [{"role": "user", "content": question}]
    return encode_chat(tokenizer, asked, generation_prompt=True).tokens


def encode_reply(tokenizer: Tokenizer, reply: str) -> list[int]:
    """What the assistant would write for `reply`: its tokens and the end mark."""
    return [*tokenizer.encode(reply, OWN_MARKS), tokenizer.special_id(END_TURN)]
