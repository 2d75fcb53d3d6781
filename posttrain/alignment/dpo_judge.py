"""Judges: which of two replies is better, behind one interface.

    judge = ScoreJudge()                             # reads the reply, by fixed rules
    judge(problem, first, second)                    # 1, 0 or 0.5: is the first better?
    win_rate(judge, problems, ours, theirs)          # ties count half
    judge = AskedJudge(endpoint(url, model))         # a language model, in both orders

A win-rate is worth what its judge is worth, so the rules of `ScoreJudge` were fixed
before any model was trained: a right answer first, then politeness, then brevity.
"""

from __future__ import annotations

import json
import math
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from posttrain.alignment.word_problem_styles import read
from posttrain.alignment.word_problems import Problem

Judge = Callable[[Problem, str, str], float]  # how sure it is that the first is better


@dataclass(frozen=True)
class ScoreJudge:
    """Points for what a reply says and how; a reply outside the grammar always loses.

    right outweighs all the rest: the longest rude reply that is right beats the best
    one that is wrong.
    """

    right: float = 3.0
    polite: float = 1.0
    word: float = -1 / 40

    def score(self, problem: Problem, reply: str) -> float:
        """The points of one reply; minus infinity where it cannot be read."""
        found = read(reply)
        if found is None:
            return -math.inf
        right = found.answer == problem.answer
        points = self.right * right + self.polite * found.style.polite
        return points + self.word * found.words

    def __call__(self, problem: Problem, first: str, second: str) -> float:
        """1, 0, or 0.5 for a tie; two replies that cannot be read are a tie."""
        a, b = self.score(problem, first), self.score(problem, second)
        return 0.5 if a == b else float(a > b)


@dataclass(frozen=True)
class AskedJudge:
    """A judge that is asked in words: `ask` takes a question and gives an answer.

    Each pair is asked about in both orders, and the verdicts are averaged, because
    judges favour a place. Raises ValueError for an answer that names neither reply.
    """

    ask: Callable[[str], str]
    wanted: str = "right, polite and short"

    def __call__(self, problem: Problem, first: str, second: str) -> float:
        """The share of the two verdicts that are for `first`."""
        there = self._names_first(problem, first, second)
        back = self._names_first(problem, second, first)
        return (there + (1 - back)) / 2

    def _names_first(self, problem: Problem, first: str, second: str) -> float:
        answer = self.ask(
            f"Question: {problem.question}\nReply A: {first}\nReply B: {second}\n"
            f"Which reply is more {self.wanted}? Say A, B or TIE, and nothing else."
        )
        verdicts = {"A": 1.0, "B": 0.0, "TIE": 0.5}
        verdict = answer.strip().rstrip(".").upper()
        if verdict not in verdicts:
            raise ValueError(f"the judge said {answer!r}; expected A, B or TIE")
        return verdicts[verdict]


def endpoint(url: str, model: str, key: str = "", seconds: float = 60.0):
    """`ask` for a server that speaks the chat-completions protocol, at temperature 0.

    url: up to and including "/v1". Raises urllib.error.URLError where none answers.
    """

    def ask(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        body = {"model": model, "messages": messages, "temperature": 0}
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{url}/chat/completions", data, headers)
        with urllib.request.urlopen(request, timeout=seconds) as response:
            return json.load(response)["choices"][0]["message"]["content"]

    return ask


def win_rate(
    judge: Judge,
    problems: Sequence[Problem],
    ours: Sequence[str],
    theirs: Sequence[str],
) -> float:
    """The mean verdict for our reply to each problem against theirs to the same."""
    if not len(problems) == len(ours) == len(theirs) > 0:
        raise ValueError(
            f"{len(problems)} problems, {len(ours)} replies of ours, {len(theirs)} of"
            " theirs: one of each a problem, and at least one problem"
        )
    rows = zip(problems, ours, theirs, strict=True)
    return sum(judge(*row) for row in rows) / len(problems)
