"""Pairs of replies to one problem, of which one is preferred.

    pairs = style_pairs(seed=0, n=1000)              # one thing differs: the style
    pairs[0].chosen, pairs[0].rejected
    unlike_pairs(seed=0, n=100)["answer"]            # kinds that no style pair is of

Both replies of a style pair think the same right thoughts, so what is preferred is
politeness or brevity and nothing else. The other kinds ask what a reward that was
learned from style pairs says of pairs that look otherwise.
"""

from __future__ import annotations

import random
from dataclasses import replace

from posttrain.alignment.dpo_judge import ScoreJudge
from posttrain.alignment.reward_model_training import Preference
from posttrain.alignment.word_problem_styles import Style
from posttrain.alignment.word_problems import Difficulty, Problem, Split, draw

EASY = Difficulty(steps=2)
OTHER_KINDS = ("both", "conflict", "answer", "broken")


def style_pairs(
    seed: int, n: int, difficulty: Difficulty = EASY, split: Split = "train"
) -> list[Preference]:
    """n pairs: polite over rude, or terse over rambling, as often.

    What does not differ, rambling or manners, is drawn anew for each pair.
    """
    rng = random.Random(f"style pairs {seed}")
    return [_style_pair(rng, draw(rng, difficulty, split)) for _ in range(n)]


def _style_pair(rng: random.Random, problem: Problem) -> Preference:
    same = rng.random() < 0.5
    if rng.random() < 0.5:
        better, worse = Style(True, same), Style(False, same)
    else:
        better, worse = Style(same, False), Style(same, True)
    return Preference(
        problem.question, better.reply(rng, problem), worse.reply(rng, problem)
    )


def unlike_pairs(
    seed: int, n: int, difficulty: Difficulty = EASY, split: Split = "test"
) -> dict[str, list[Preference]]:
    """n pairs of each of four kinds that style pairs never show.

    both: polite and terse over rude and rambling. conflict: polite and rambling against
    rude and terse; the judge says which is better. answer: in the best style, the
    right answer over a wrong one behind the same thoughts. broken: over a reply of
    which two words changed places.
    """
    rng = random.Random(f"unlike pairs {seed}")
    made = {kind: [] for kind in OTHER_KINDS}
    for _ in range(n):
        problem = draw(rng, difficulty, split)
        best = Style(polite=True, rambling=False).reply(rng, problem)
        worst = Style(polite=False, rambling=True).reply(rng, problem)
        made["both"].append(Preference(problem.question, best, worst))
        made["conflict"].append(_conflict(rng, problem))
        made["answer"].append(
            Preference(problem.question, best, _wrong(rng, problem, best))
        )
        made["broken"].append(Preference(problem.question, best, _broken(rng, best)))
    return made


def _conflict(rng: random.Random, problem: Problem) -> Preference:
    first = Style(polite=True, rambling=True).reply(rng, problem)
    second = Style(polite=False, rambling=False).reply(rng, problem)
    if ScoreJudge()(problem, first, second) > 0.5:
        return Preference(problem.question, first, second)
    return Preference(problem.question, second, first)


def _wrong(rng: random.Random, problem: Problem, reply: str) -> str:
    """The same reply with an answer that is off by up to 3."""
    off = rng.choice([d for d in (-3, -2, -1, 1, 2, 3) if problem.answer + d > 0])
    thoughts, said = reply.split("</think>")
    said = said.replace(str(problem.answer), str(problem.answer + off))
    return f"{thoughts}</think>{said}"


def _broken(rng: random.Random, reply: str) -> str:
    """The same reply with two neighbouring words of its last sentence swapped."""
    thoughts, said = reply.split("</think>")
    words = said.split(" ")
    place = rng.randrange(len(words) - 4, len(words) - 1)
    words[place], words[place + 1] = words[place + 1], words[place]
    return f"{thoughts}</think>{' '.join(words)}"


def with_labels_turned(
    pairs: list[Preference], share: float, seed: int = 0
) -> list[Preference]:
    """The same pairs, `share` of the labels the wrong way round: a noisy annotator."""
    rng = random.Random(f"turned {seed}")
    return [
        replace(pair, chosen=pair.rejected, rejected=pair.chosen)
        if rng.random() < share
        else pair
        for pair in pairs
    ]
