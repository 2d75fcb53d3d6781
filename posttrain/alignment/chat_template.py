"""The chat template: messages to tokens, and which tokens the assistant wrote.

    chat = encode_chat(tokenizer, [{"role": "user", "content": "..."}, ...])
    chat.tokens, chat.assistant             ids, and a mask as long
    prompt = encode_prompt(tokenizer, "Mia has 12 coins, ...")

A turn is the mark of its role, the text, the mark of its end. The assistant's turn
begins *after* its mark, which is given, and ends with the end mark, which the model
must learn to write: without it generation does not stop.

What a message says is ordinary text. Only the assistant's own marks (thinking, tool
calls) are allowed in its content as special tokens; a user who writes "<|assistant|>"
gets those characters, not a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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

Message = dict[str, str]  # "role" and "content"
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
    on as the assistant. Raises ValueError for an unknown role, and for a generation
    prompt behind the assistant's own turn.
    """
    chat = Chat()
    for message in messages:
        role = message["role"]
        if role not in ROLES:
            known = ", ".join(ROLES)
            raise ValueError(f"role {role!r} is not known; the roles are {known}")
        ours = role == "assistant"
        chat.append([tokenizer.special_id(ROLES[role])], assistant=False)
        content = tokenizer.encode(message["content"], OWN_MARKS if ours else ())
        chat.append([*content, tokenizer.special_id(END_TURN)], assistant=ours)
    if generation_prompt:
        if messages and messages[-1]["role"] == "assistant":
            raise ValueError(
                "the last message is the assistant's own; a generation prompt follows a"
                " user or a tool"
            )
        chat.append([tokenizer.special_id(ASSISTANT)], assistant=False)
    return chat


def encode_prompt(tokenizer: Tokenizer, question: str) -> list[int]:
    """The tokens after which the model answers `question`."""
    asked = [{"role": "user", "content": question}]
    return encode_chat(tokenizer, asked, generation_prompt=True).tokens


def encode_reply(tokenizer: Tokenizer, reply: str) -> list[int]:
    """What the assistant would write for `reply`: its tokens and the end mark."""
    return [*tokenizer.encode(reply, OWN_MARKS), tokenizer.special_id(END_TURN)]
