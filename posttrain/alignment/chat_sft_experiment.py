"""The experiment of the chapter: one small model, fine-tuned well and badly.

`run(preset, seed)` trains it from scratch on worked word problems, many times over, and
returns numbers:

    arms       what each change does to held-out accuracy, sampled and greedy: the loss
               on the whole sequence, slips in the demonstrations, fewer of them, an
               order, a learning rate, an end mark that nobody learned to write
    mismatch   the best model asked through a template that it was not trained with
    tax        a model that first read the questions as plain text: how well it still
               predicts such text after fine-tuning
    packing    rows padded, sorted by length, packed: targets a CPU-second, equal loss

All arms of a seed start from the same weights and take as many steps. Run it over seeds
with `python -m ci.measure chat_sft cpu`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn

from posttrain.alignment import chat_sft_experiment_parts as parts
from posttrain.alignment.chat_sft import (
    Pool,
    questions_only,
    sft_trainer,
    whole_sequences,
)
from posttrain.alignment.chat_sft_data import Stages, with_slips, worked
from posttrain.alignment.chat_sft_throughput import compare_batches
from posttrain.alignment.completions import Completions
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty, Problem, draw, problems
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.presets import preset_named

VERSION = 1
TEST_SEED = 10_000
THREE_STEPS = Difficulty(steps=3)
FEWEST_STEPS = 20  # of a run: the warm-up takes ten


@dataclass(frozen=True)
class Preset:
    """Sizes of one run of the experiment."""

    difficulty: Difficulty = THREE_STEPS
    C: int = 64
    L: int = 2
    T: int = 112
    B: int = 32
    steps: int = 240
    lr: float = 2e-2
    demonstrations: int = 4000
    few: tuple[int, ...] = (128, 256)  # demonstrations of the smaller pools
    slips: tuple[float, ...] = (0.25, 0.5)  # shares of wrong solutions
    hot: tuple[float, ...] = (1.0, 10.0, 50.0)  # times the learning rate; short runs
    marks: int = 6  # how often the curves are measured
    test: int = 200  # held-out problems
    max_new: int = 48  # tokens of a reply, at most
    packed: int = 256  # conversations of the comparison of batches
    precision: str = "fp32"

    def config(self) -> GPTConfig:
        """The shape of the model."""
        V = tokenizer().vocab_size
        return GPTConfig(V=V, T=self.T, C=self.C, L=self.L, H=4, H_kv=2)


PRESETS = {
    "ci": Preset(
        difficulty=Difficulty(steps=2),
        C=32,
        steps=40,
        lr=3e-2,
        demonstrations=256,
        few=(32,),
        slips=(0.5,),
        hot=(1.0, 50.0),
        marks=2,
        test=24,
        max_new=32,
        packed=32,
    ),
    "cpu": Preset(),
}
PRESETS["t4"] = replace(
    PRESETS["cpu"],
    difficulty=Difficulty(steps=8, most=99),
    C=256,
    L=6,
    T=256,
    B=128,
    steps=1500,
    lr=1e-2,
    demonstrations=50_000,
    few=(1000, 8000),
    test=1000,
    max_new=128,
    packed=4096,
    precision="fp16",
)
PRESETS["h200"] = replace(
    PRESETS["t4"],
    difficulty=Difficulty(steps=12, most=99),
    C=512,
    L=8,
    T=384,
    B=512,
    demonstrations=200_000,
    max_new=192,
    precision="bf16",
)


def run(preset: str, seed: int) -> dict:
    """All parts; a JSON-able dict. Raises ValueError for an unknown preset."""
    bench = Bench.of(preset_named(PRESETS, preset), seed)
    results = {name: bench.train(make()) for name, make in arms(bench).items()}
    best = results["reply"]["model"]
    return {
        "preset": preset,
        "seed": seed,
        "config": json.loads(json.dumps(asdict(bench.setup))),
        "arms": {name: result["curve"] for name, result in results.items()},
        "losses": {  # every step, where the course of the loss is the point
            name: result["losses"]
            for name, result in results.items()
            if name.startswith("lr ")
        },
        "mismatch": parts.mismatches(best, bench.exam),
        "tax": tax(bench),
        "packing": compare_batches(
            best, bench.mixed(bench.setup.packed), bench.setup.B, bench.setup.T
        ),
    }


@dataclass(frozen=True)
class Arm:
    """One way to fine-tune: where batches come from, at which rate, for how long."""

    batches: Callable[[int, int], Completions]
    lr: float = 1.0  # times the preset's
    share: float = 1.0  # of the preset's steps
    marks: int = 1  # how often it is measured, the end included
    start: dict | None = None  # weights; None: the seed's fresh ones


@dataclass
class Bench:
    """What all arms of a seed have in common: problems, sizes, held-out sets."""

    setup: Preset
    seed: int
    device: str
    shown: list[Problem]
    exam: parts.Exam

    @classmethod
    def of(cls, setup: Preset, seed: int) -> Bench:
        """Draw the problems: those to learn from by the seed, the test set always."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        test = problems(TEST_SEED, setup.test, setup.difficulty, "test")
        held = Pool.of(worked(test), B=len(test), device=device)
        shown = problems(seed, setup.demonstrations, setup.difficulty)
        exam = parts.Exam(test, held.batch(range(len(test))), seed, setup.max_new)
        return cls(setup, seed, device, shown, exam)

    def pool(self, pairs) -> Pool:
        """Demonstrations as batches of this bench."""
        B = min(self.setup.B, len(pairs))
        return Pool.of(pairs, B=B, seed=self.seed, device=self.device)

    def mixed(self, n: int) -> list[tuple[str, str]]:
        """n worked problems, as many of each number of steps; the easy ones first.

        Of one step there are few, so their arithmetic comes again in other words.
        """
        d, rng = self.setup.difficulty, random.Random(self.seed)
        return worked(
            [
                draw(rng, replace(d, steps=steps))
                for steps in range(1, d.steps + 1)
                for _ in range(n // d.steps)
            ]
        )

    def model(self) -> nn.Module:
        """The weights that every arm of this seed starts from."""
        torch.manual_seed(self.seed)
        return GPT(self.setup.config()).to(self.device)

    def train(self, arm: Arm) -> dict:
        """Fine-tune: the curve (its last row is the trained model's), losses, model."""
        setup, model = self.setup, self.model()
        if arm.start is not None:
            model.load_state_dict(arm.start)
        trainer = sft_trainer(
            model,
            arm.batches,
            max(FEWEST_STEPS, round(arm.share * setup.steps)),
            arm.lr * setup.lr,
            precision=setup.precision,
        )
        curve, losses = parts.fit_and_measure(trainer, arm.marks, self.exam)
        return {"curve": curve, "losses": losses, "model": model}


def arms(bench: Bench) -> dict[str, Callable[[], Arm]]:
    """Every way to fine-tune, by name; "reply" is the one that the others change."""
    setup, shown = bench.setup, bench.shown
    right = worked(shown)

    def easy_first() -> Arm:
        pairs = bench.mixed(len(shown))
        n = len(pairs) // setup.difficulty.steps
        pools = [bench.pool(pairs[i : i + n]) for i in range(0, len(pairs), n)]
        return Arm(Stages(pools, setup.steps))

    return {
        "reply": lambda: Arm(bench.pool(right), marks=setup.marks),
        "whole sequence": lambda: Arm(whole_sequences(bench.pool(right))),
        "no end mark": lambda: Arm(parts.without_end(bench.pool(right))),
        **{
            f"slips {share:g}": lambda share=share: Arm(
                bench.pool(with_slips(shown, share, bench.seed))
            )
            for share in setup.slips
        },
        # what a filter leaves of the worst of them: fewer demonstrations, all right
        "filtered": lambda: Arm(
            bench.pool(right[: round((1 - max(setup.slips)) * len(right))])
        ),
        **{
            f"pool {n}": lambda n=n: Arm(bench.pool(right[:n]), marks=setup.marks)
            for n in setup.few
        },
        "easy first": easy_first,
        "mixed": lambda: Arm(bench.pool(bench.mixed(len(shown)))),
        **{
            f"lr {hot:g}": lambda hot=hot: Arm(bench.pool(right), lr=hot, share=0.25)
            for hot in setup.hot
        },
    }


def tax(bench: Bench) -> list[dict]:
    """Questions as plain text first, then replies: the perplexity of the questions."""
    pool = bench.pool(worked(bench.shown))
    test = worked(bench.exam.problems)
    held = Pool.of(test, B=len(test), device=bench.device)
    questions = questions_only(held).batch(range(len(test)))
    base = bench.train(Arm(questions_only(pool), share=0.5))["model"]
    rows = [{"model": "base", "perplexity": parts.perplexity(base, questions)}]
    for name, batches in (("reply", pool), ("whole sequence", whole_sequences(pool))):
        start = {k: v.clone() for k, v in base.state_dict().items()}
        tuned = bench.train(Arm(batches, share=0.5, start=start))
        rows.append(
            {
                "model": name,
                "perplexity": parts.perplexity(tuned["model"], questions),
                **tuned["curve"][-1],
            }
        )
    return rows
