"""A judge says which of two replies is better. It is a function: put any behind it.

    judge = judge_from_environment()            # local, unless a server is named
    judge(problem, a, b)                        # P(a is better), from 0 to 1

The local judge is the gold, so nothing has to be paid or reached. `ChatJudge` asks a
language model through a function from text to text; `chat_server` makes that function
for any server that speaks the chat-completions form of OpenAI's API.

A model that judges has a taste for places: some prefer what stands first. `ChatJudge`
asks in both orders; a verdict that turns with the order counts as a tie.
Source: Zheng et al. 2023, section 3.4.
"""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from posttrain.alignment.reward_model_gold import gold
from posttrain.alignment.word_problems import Problem

Judge = Callable[[Problem, str, str], float]
Ask = Callable[[str], str]

VERDICTS = {"A": 1.0, "B": 0.0, "TIE": 0.5}
QUESTION = """Two assistants answered a user. Prefer the right answer; then good manners
without flattery; then brevity.

User: {question}

[A] {a}

[B] {b}

Which is better? Answer with one word: A, B or TIE."""


def local_judge(problem: Problem, a: str, b: str) -> float:
    """The gold's own verdict: 1, 0, or 0.5 for a tie."""
    gap = gold(problem, a) - gold(problem, b)
    return 0.5 if gap == 0 else float(gap > 0)


@dataclass(frozen=True)
class ChatJudge:
    """A judge that asks a model, twice, with the replies in both orders."""

    ask: Ask

    def __call__(self, problem: Problem, a: str, b: str) -> float:
        """The mean of both verdicts. Raises ValueError for an answer that is none."""
        forth = self._verdict(problem.question, a, b)
        back = self._verdict(problem.question, b, a)
        return (forth + 1 - back) / 2

    def _verdict(self, question: str, first: str, second: str) -> float:
        said = self.ask(QUESTION.format(question=question, a=first, b=second))
        found = re.fullmatch(r"\W*(A|B|TIE)\W*", said, re.IGNORECASE)
        if found is None:
            raise ValueError(f"the judge said {said[:80]!r}, expected A, B or TIE")
        return VERDICTS[found[1].upper()]


def chat_server(url: str, model: str, key: str = "", timeout: float = 30.0) -> Ask:
    """A function that sends text to a chat-completions server and returns its answer.

    url: up to and with "/v1". timeout: seconds. Passes on urllib's errors.
    """

    def ask(text: str) -> str:
        body = {
            "model": model,
            "temperature": 0,
            "messages": [{"role": "user", "content": text}],
        }
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.load(answer)["choices"][0]["message"]["content"]

    return ask


def judge_from_environment(environ: Mapping[str, str] = os.environ) -> Judge:
    """The local judge, or the model that POSTTRAIN_JUDGE_URL and _MODEL name.

    POSTTRAIN_JUDGE_KEY is sent along, if there is one. Raises ValueError for an address
    without a model.
    """
    url = environ.get("POSTTRAIN_JUDGE_URL", "")
    if not url:
        return local_judge
    model = environ.get("POSTTRAIN_JUDGE_MODEL", "")
    if not model:
        raise ValueError(
            f"POSTTRAIN_JUDGE_URL={url!r} is set and POSTTRAIN_JUDGE_MODEL is not: name"
            " the model that shall judge"
        )
    return ChatJudge(chat_server(url, model, environ.get("POSTTRAIN_JUDGE_KEY", "")))
