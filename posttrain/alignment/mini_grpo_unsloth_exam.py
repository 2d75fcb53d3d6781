"""Held-out questions, answered before, during and after training.

    exam = Exam.of(word_problem_questions(recipe, "test", 300), settings)
    exam.hold(policy)                       # Marks(correct=0.55, number=0.97, ...)

The exam draws from a random stream of its own and puts the model back as it was, so a
run with exams takes the same steps as one without.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from posttrain import data
from posttrain.alignment.chat_sft_artifact import TEST_SEED, recipe_of
from posttrain.alignment.mini_grpo_unsloth_rewards import number_of, read
from posttrain.alignment.word_problems import Difficulty, Split, problems

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from posttrain.alignment.mini_grpo_unsloth import Policy, Settings

POOL = 2000  # word problems to learn from


@dataclass(frozen=True)
class Question:
    """A question and its answer, a number as text."""

    question: str
    answer: str


def questions_for(settings: Settings) -> tuple[list[Question], list[Question]]:
    """Questions to learn from, and others for the exam.

    Word problems for the book's own model, GSM8K for one from the hub.
    """
    if settings.model is not None:
        held_out = gsm8k_questions("test")[: settings.held_out]
        return gsm8k_questions("train"), held_out
    difficulty = recipe_of(settings.cold).difficulty
    return (
        word_problem_questions(difficulty, "train", POOL, seed=settings.seed),
        word_problem_questions(difficulty, "test", settings.held_out),
    )


def gsm8k_questions(split: Split) -> list[Question]:
    """GSM8K (Cobbe et al. 2021): each answer ends in "#### " and a number."""
    rows = map(json.loads, data.load(f"gsm8k_{split}").text.splitlines())
    return [
        Question(row["question"], row["answer"].rpartition("#### ")[2].strip())
        for row in rows
    ]


def word_problem_questions(
    difficulty: Difficulty, split: Split, n: int, seed: int = TEST_SEED
) -> list[Question]:
    """n of the book's word problems."""
    return [
        Question(p.question, str(p.answer))
        for p in problems(seed, n, difficulty, split)
    ]


@dataclass(frozen=True)
class Answer:
    """A reply, how many tokens it took, and whether it came to its end."""

    text: str
    length: int
    ended: bool


@dataclass(frozen=True)
class Marks:
    """Shares of all replies, and their mean length in tokens."""

    correct: float
    number: float
    tags: float
    thinks: float  # tags with something between them
    ended: float
    length: float


@dataclass(frozen=True)
class Exam:
    """Questions, and how they are put. temperature 0: greedy. batch: at once."""

    questions: Sequence[Question]
    system: str | None
    max_new: int
    temperature: float = 1.0
    batch: int = 128
    seed: int = 0

    def answers(self, policy: Policy) -> list[Answer]:
        """One reply to each question."""
        rows = []
        with _answering(policy), torch.random.fork_rng():
            torch.manual_seed(self.seed)
            for i in range(0, len(self.questions), self.batch):
                rows += self._batch(policy, self.questions[i : i + self.batch])
        return rows

    def hold(self, policy: Policy) -> Marks:
        """The marks of one reply to each question."""
        return marks(self.answers(policy), self.questions)

    def _batch(self, policy: Policy, questions: Sequence[Question]) -> list[Answer]:
        from posttrain.alignment.mini_grpo_unsloth import prompt_of

        tokenizer, ends = policy.tokenizer, policy.end_ids
        asked = tokenizer.apply_chat_template(
            [prompt_of(q.question, self.system) for q in questions],
            add_generation_prompt=True,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            return_dict=True,
        ).to(policy.model.device)
        asked.pop("token_type_ids", None)
        draw = {"temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        with torch.no_grad():
            out = policy.model.generate(
                **asked,
                max_new_tokens=self.max_new,
                pad_token_id=tokenizer.pad_token_id,
                do_sample=self.temperature > 0,
                **(draw if self.temperature > 0 else {}),
            )
        replies = out[:, asked["input_ids"].shape[1] :].tolist()
        return [_answer(tokenizer, reply, ends) for reply in replies]


def _answer(tokenizer, reply: list[int], ends: set[int]) -> Answer:
    """A row of new tokens up to the first that ends the turn."""
    at = next((i for i, token in enumerate(reply) if token in ends), None)
    kept = reply if at is None else reply[:at]
    text = tokenizer.decode(kept, skip_special_tokens=True)
    return Answer(text, len(kept) + (at is not None), at is not None)


def marks(answers: Sequence[Answer], questions: Sequence[Question]) -> Marks:
    """What the verifier says of answers. Raises ValueError for none."""
    if not answers or len(answers) != len(questions):
        raise ValueError(
            f"{len(answers)} answers to {len(questions)} questions: there must be one"
            " to each, and at least one"
        )
    replies = [read(a.text) if a.ended else read("") for a in answers]
    due = [number_of(q.answer) for q in questions]
    n = len(answers)
    return Marks(
        correct=sum(r.number == d for r, d in zip(replies, due, strict=True)) / n,
        number=sum(r.number is not None for r in replies) / n,
        tags=sum(r.thinking is not None for r in replies) / n,
        thinks=sum(bool((r.thinking or "").strip()) for r in replies) / n,
        ended=sum(a.ended for a in answers) / n,
        length=sum(a.length for a in answers) / n,
    )


def table(
    answers: Sequence[Answer],
    questions: Sequence[Question],
    before: Sequence[Answer] | None = None,
) -> str:
    """Answers beside their questions, in Markdown; with `before`, the old one above."""
    columns = [answers] if before is None else [before, answers]
    head = "reply" if before is None else "reply before, reply after"
    lines = [f"| question | due | {head} |", "| --- | --- | --- |"]
    for i, asked in enumerate(questions):
        texts = "<br>".join(f"`{_one_line(column[i])}`" for column in columns)
        lines.append(f"| {asked.question} | {asked.answer} | {texts} |")
    return "\n".join(lines)


def _one_line(answer: Answer, most: int = 160) -> str:
    """The text fit for a cell of a table."""
    text = " ".join(answer.text.split()).replace("|", "\\|").replace("`", "'")
    cut = text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
    return cut if answer.ended else f"{cut} (cut off)"


def verdict(
    before: Sequence[Answer], after: Sequence[Answer], questions: Sequence[Question]
) -> str:
    """The lab's score in words: the gain, its standard error, the share of the way.

    Both must have answered the same questions, so the error is that of the mean of the
    differences, question by question.
    """
    pairs = [
        (marks([b], [q]).correct, marks([a], [q]).correct)
        for b, a, q in zip(before, after, questions, strict=True)
    ]
    n = len(pairs)
    old, new = (sum(column) / n for column in zip(*pairs, strict=True))
    gain = new - old
    spread = sum((a - b - gain) ** 2 for b, a in pairs) / max(n - 1, 1)
    error = math.sqrt(spread / n)
    way = (
        f"{gain / (1 - old):.0%} of the way to a perfect exam" if old < 1 else "perfect"
    )
    clear = "" if abs(gain) > 2 * error else " That is within two standard errors of 0."
    return (
        f"**Held-out accuracy {old:.3f} → {new:.3f}**, a gain of {gain:+.3f} ±"
        f" {error:.3f} over {n} questions: {way}.{clear}"
    )


@contextmanager
def _answering(policy: Policy):
    """The model ready to answer, and afterwards as it was."""
    was_training = policy.model.training
    fast = None
    if policy.by == "unsloth":
        from unsloth import FastLanguageModel as fast
    if fast is not None:
        fast.for_inference(policy.model)
    policy.model.eval()
    try:
        yield
    finally:
        if fast is not None and was_training:
            fast.for_training(policy.model)
        policy.model.train(was_training)


def exam_callback(exam: Exam, policy: Policy, every: int) -> TrainerCallback:
    """Holds the exam before the first step and every `every` steps, and prints it.

    The marks go into the trainer's own log, which every checkpoint carries: they are
    there after a run was cut off, too.
    """
    from transformers import TrainerCallback

    class HoldExam(TrainerCallback):
        def note(self, state):
            found = exam.hold(policy)
            row = {f"exam/{name}": value for name, value in asdict(found).items()}
            state.log_history.append({"step": state.global_step, **row})
            print(
                f"step {state.global_step} of {state.max_steps}: {found.correct:.2f} of"
                f" the exam right, {found.length:.0f} tokens a reply",
                flush=True,
            )

        def on_train_begin(self, args, state, control, **_):
            if state.global_step == 0:
                self.note(state)

        def on_step_end(self, args, state, control, **_):
            if state.global_step % every == 0:
                self.note(state)

    return HoldExam()
