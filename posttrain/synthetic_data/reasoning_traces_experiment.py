"""The experiment of the chapter: what a cold start is worth, by how it was curated.

`run(preset, seed)` draws a dirty pool and returns numbers:

    pool      what is in it, what each filter dropped, what only that filter found
    arms      for each way to choose the same number of traces: the model after SFT, the
              groups that RL can use, GRPO's log, the model after RL; accuracy by the
              number of steps
All arms have the same model, number of traces, SFT steps and GRPO recipe; only the
traces differ. Run it over seeds with `python -m ci.measure reasoning_traces cpu`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

import torch
from torch import nn

from posttrain.alignment.chat_sft import Pool, sft_trainer
from posttrain.alignment.grpo_training import Recipe, grpo_trainer
from posttrain.alignment.rollouts import GREEDY, Rollout, roll_out, score
from posttrain.alignment.verifier import parse
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty, Problem, problems
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.trainer import Trainer, fit
from posttrain.presets import preset_named
from posttrain.results import significant
from posttrain.synthetic_data.reasoning_traces import Trace, form_fault, work_fault
from posttrain.synthetic_data.reasoning_traces_filters import (
    ANSWER,
    FILTERS,
    FORM,
    MOST_TOKENS,
    SOUND,
    curate,
    found_by_one,
)
from posttrain.synthetic_data.reasoning_traces_pool import draw_pool
from posttrain.synthetic_data.reasoning_traces_scorable import (
    balanced,
    usable_share,
    usable_share_of,
)

VERSION = 1
TEST_SEED = 20_000
FEW = {1: 16, 2: 250}  # problems of the test set, by their steps


@dataclass(frozen=True)
class Preset:
    """Sizes of one run."""

    C: int = 64
    L: int = 2
    T: int = 152
    pool: int = 10_000
    traces: int = 2000  # of each arm
    B: int = 64
    sft_steps: int = 230
    sft_lr: float = 2e-2
    rl_steps: int = 4  # of the problems that GRPO asks
    rounds: int = 60
    rl_lr: float = 1.5e-4  # this model is smaller than that of the GRPO chapter
    prompts: int = 48  # whose pass rate is estimated, for each number of steps
    answers: int = 16  # to each of them
    asked: tuple[int, ...] = (2, 3, 4)  # steps of those prompts
    problems: int = 128  # replies to held-out problems, for each number of steps
    steps: tuple[int, ...] = (1, 2, 3, 4, 5, 6)  # the difficulties that are tested
    precision: str = "fp32"
    most: int = 9
    arms: tuple[str, ...] = ("raw", "verified", "sound", "curated", "no thoughts")
    without_rl: tuple[str, ...] = ("sound",)


PRESETS = {
    "ci": Preset(
        C=48,
        L=1,
        pool=2500,
        traces=512,
        sft_steps=40,
        rounds=2,
        prompts=16,
        answers=8,
        problems=24,
        arms=("raw", "curated"),
    ),
    "cpu": Preset(),
}
PRESETS["t4"] = replace(
    PRESETS["cpu"],
    C=192,
    L=4,
    pool=60_000,
    traces=12_000,
    B=256,
    sft_steps=1000,
    sft_lr=1e-2,
    rounds=150,
    problems=500,
    precision="fp16",
)
PRESETS["h200"] = replace(
    PRESETS["t4"], C=384, L=6, B=512, sft_steps=1500, precision="bf16"
)


# ------------------------------------------------------------------------- the arms


def raw(pool: Sequence[Trace]) -> list[Trace]:
    """The pool as it was found."""
    return list(pool)


def verified(pool: Sequence[Trace]) -> list[Trace]:
    """What a verifier accepts: the form, and the right answer."""
    return curate(pool, (FORM, ANSWER)).kept


def sound(pool: Sequence[Trace]) -> list[Trace]:
    """What passes all filters that read a trace by itself."""
    return curate(pool, SOUND).kept


def curated(pool: Sequence[Trace]) -> list[Trace]:
    """What passes all filters, with the numbers of steps in equal parts."""
    kept = curate(pool, FILTERS).kept
    order = balanced([len(trace.problem.changes) for trace in kept])
    return [kept[place] for place in order]


def no_thoughts(pool: Sequence[Trace]) -> list[Trace]:
    """The curated problems with their answers only."""
    return [
        replace(trace, text=trace.problem.demonstration(thinking=False))
        for trace in curated(pool)
    ]


ARMS: dict[str, Callable[[Sequence[Trace]], list[Trace]]] = {
    "raw": raw,
    "verified": verified,
    "sound": sound,
    "curated": curated,
    "no thoughts": no_thoughts,
}


# ---------------------------------------------------------------------- the pieces


def run(preset: str, seed: int) -> dict:
    """All parts; a JSON-able dict. Raises ValueError for an unknown preset."""
    setup = preset_named(PRESETS, preset)
    pool = draw_pool(seed, setup.pool, setup.most)
    result = {
        "preset": preset,
        "seed": seed,
        "config": asdict(setup),
        "pool": look_at(pool),
        "arms": {
            name: run_arm(setup, ARMS[name](pool), seed, name not in setup.without_rl)
            for name in setup.arms
        },
    }
    return json.loads(json.dumps(significant(result)))


def look_at(pool: Sequence[Trace]) -> dict:
    """What is in the pool, what the filters drop, and what only one of them finds."""
    report = curate(pool, FILTERS)
    return {
        "planted": kinds(pool),
        "rows": [
            {"name": row.name, "before": row.before, "dropped": kinds(row.dropped)}
            for row in report.rows
        ],
        "kept": kinds(report.kept),
        "found by one": dict(found_by_one(pool, FILTERS)),
    }


def kinds(traces: Sequence[Trace]) -> dict[str, int]:
    """How many traces have which fault."""
    return dict(Counter(trace.planted or "none" for trace in traces).most_common())


def run_arm(setup: Preset, traces: Sequence[Trace], seed: int, rl: bool) -> dict:
    """A cold start from the first traces, then GRPO if `rl`.

    Raises ValueError where the pool did not hold enough of them.
    """
    if len(traces) < setup.traces:
        raise ValueError(
            f"{len(traces)} traces are left, {setup.traces} are asked for; draw a"
            " larger pool"
        )
    chosen = traces[: setup.traces]
    begun = time.process_time()
    trainer = cold_start(setup, chosen, seed)
    fit(trainer)
    seconds = time.process_time() - begun
    model = trainer.model.eval()
    return {
        "planted": kinds(chosen),
        "steps": dict(Counter(str(len(t.problem.changes)) for t in chosen)),
        "sft_cpu_seconds": round(seconds, 1),
        "start": examine(setup, model, seed),
        "usable": {str(n): usable(setup, model, n, seed) for n in setup.asked},
        **(reinforce(setup, model, seed) if rl else {}),
    }


def reinforce(setup: Preset, model: nn.Module, seed: int) -> dict:
    """GRPO on the model: its log, and what became of the model."""
    recipe = Recipe(
        difficulty=Difficulty(setup.rl_steps, setup.most),
        rounds=setup.rounds,
        lr=setup.rl_lr,
        max_new=MOST_TOKENS,
    )
    begun = time.process_time()
    trainer, rounds = grpo_trainer(model, recipe, seed=seed)
    fit(trainer)
    seconds = time.process_time() - begun
    log = [
        {"accuracy": entry.scores.accuracy, "silent": entry.silent}
        for entry in rounds.log
    ]
    return {
        "rounds": log,
        "rl_cpu_seconds": round(seconds, 1),
        "after": examine(setup, model.eval(), seed),
    }


def cold_start(setup: Preset, traces: Sequence[Trace], seed: int) -> Trainer:
    """A fresh model, ready to imitate the traces."""
    torch.manual_seed(seed)
    config = GPTConfig(
        V=tokenizer().vocab_size, T=setup.T, C=setup.C, L=setup.L, H=4, H_kv=2
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = [(trace.problem.question, trace.text) for trace in traces]
    return sft_trainer(
        GPT(config).to(device),
        Pool.of(pairs, B=setup.B, seed=seed, device=device),
        setup.sft_steps,
        setup.sft_lr,
        precision=setup.precision,
    )


def held_out(setup: Preset, steps: int) -> list[Problem]:
    """Held-out problems with so many steps, the same for every seed.

    Short ones are few; they are asked several times.
    """
    n = min(setup.problems, FEW.get(steps, setup.problems))
    return problems(TEST_SEED, n, Difficulty(steps, setup.most), "test")


def examine(setup: Preset, model: nn.Module, seed: int) -> dict:
    """Held-out accuracy by number of steps, sampled; and more about those of RL."""
    by_steps = {}
    for steps in setup.steps:
        asked = held_out(setup, steps)
        answers = answer(model, asked, seed, group=setup.problems // len(asked))
        by_steps[str(steps)] = score(answers).accuracy
        if steps == setup.rl_steps:
            sampled = answers
    asked = held_out(setup, setup.rl_steps)
    greedy = roll_out(model, asked, settings=GREEDY, max_new=MOST_TOKENS)
    return {
        "by steps": by_steps,
        "greedy": score(greedy).accuracy,
        **asdict(score(sampled)),
        **soundness(sampled),
    }


def answer(
    model: nn.Module, asked: Sequence[Problem], seed: int, group: int = 1
) -> list[Rollout]:
    """Sampled replies."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    return roll_out(model, asked, group, generator=generator, max_new=MOST_TOKENS)


def soundness(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Of all replies, the share whose thought bears its answer; and of the right ones.

    A right answer behind a thought that does not bear it is right by luck.
    """
    bears = [bears_its_answer(rollout) for rollout in rollouts]
    right = [parse(r.reply).answer == r.problem.answer for r in rollouts]
    both = sum(b and ok for b, ok in zip(bears, right, strict=True))
    return {
        "sound": fmean(bears),
        "sound if right": both / sum(right) if any(right) else 0.0,
    }


def bears_its_answer(rollout: Rollout) -> bool:
    """Whether a reply has its form, and work without a fault."""
    if form_fault(rollout.reply) is not None:
        return False
    return work_fault(Trace(rollout.problem, rollout.reply)) is None


def usable(setup: Preset, model: nn.Module, steps: int, seed: int) -> dict:
    """How many groups GRPO could use on problems with so many steps.

    right: of each prompt, how many answers are right. counted: the share of groups of G
    answers that disagree; estimate: without bias, from all answers; at the mean: what
    the formula says of the mean pass rate, as if all prompts were equally hard.
    """
    n, G = setup.answers, Recipe().group
    asked = problems(seed + TEST_SEED, setup.prompts, Difficulty(steps, setup.most))
    replies = answer(model, asked, seed, group=n)
    earned = [parse(r.reply).answer == r.problem.answer for r in replies]
    right = [sum(earned[i : i + n]) for i in range(0, len(earned), n)]
    groups = [sum(earned[i : i + G]) for i in range(0, len(earned), G)]
    return {
        "right": right,
        "counted": fmean(0 < r < G for r in groups),
        "estimate": fmean(usable_share_of(r, n, G) for r in right),
        "at the mean": usable_share(fmean(right) / n, G),
    }
