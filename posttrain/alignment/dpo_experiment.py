"""The experiment of the chapter: teach manners by pairs, and see what it costs.

`run(preset, seed)` fine-tunes a small model on word problems answered in all styles
(SFT), then trains it on pairs, once a way, each time from the SFT model:

    dpo          the recipe: sigmoid, beta 0.5, a likelihood term on the chosen reply
    hinge, ipo   the same with the other two losses
    no nll       without the likelihood term
    small beta   that, and a tenth of beta
    high lr      the recipe with ten times its learning rate
    padding      the recipe with a wrong mask: padding counts as if it were text
    noisy        the recipe, but a fifth of the labels are the wrong way round
    smoothed     the same, with label smoothing of a fifth

Returned: the SFT model's grades, for each way its grades and its curves on held-out
pairs; what the implicit reward, and that of a reward model trained on the same pairs,
say of pairs of other kinds; how gradients of chosen and rejected replies are tied. Run
it over seeds with `python -m ci.measure dpo cpu`.
"""

from __future__ import annotations

import copy
import json
import random
import time
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean

import torch
from torch import Tensor

from posttrain.alignment.chat_sft import Pool, sft_trainer
from posttrain.alignment.dpo_displacement import influence, pulls
from posttrain.alignment.dpo_measures import Exam
from posttrain.alignment.dpo_preferences import (
    EASY,
    style_pairs,
    unlike_pairs,
    with_labels_turned,
)
from posttrain.alignment.dpo_training import (
    Pairs,
    Recipe,
    dpo_trainer,
    loss_of,
    pair_logprobs,
)
from posttrain.alignment.reward_model import RewardModel
from posttrain.alignment.reward_model_measures import accuracy
from posttrain.alignment.reward_model_training import (
    PairPool,
    Preference,
    reward_trainer,
    rewards_of,
)
from posttrain.alignment.word_problem_styles import Style
from posttrain.alignment.word_problem_tokenizer import tokenizer
from posttrain.alignment.word_problems import Difficulty, draw, problems
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.tokenization import PAD
from posttrain.foundations.trainer import fit
from posttrain.presets import preset_named

VERSION = 1
TEST_SEED = 10_000
HELD_OUT_SEED = 20_000


@dataclass(frozen=True)
class Preset:
    """Sizes of one run of the experiment."""

    difficulty: Difficulty = EASY
    C: int = 64
    L: int = 2
    T: int = 128  # the longest conversation, in tokens
    demonstrations: int = 6000
    sft_B: int = 64
    sft_steps: int = 350
    sft_lr: float = 2e-2
    precision: str = "fp32"
    pairs: int = 2000
    recipe: Recipe = field(
        default_factory=lambda: Recipe(steps=70, B=16, lr=1e-3, beta=0.5, nll=1.0)
    )
    ipo_beta: float = 3.0  # of another unit: nats a token, not nats a reply
    turned: float = 0.2  # share of labels that the noisy annotator gets wrong
    every: int = 10  # steps between two points of a curve
    held_out: int = 48  # pairs, of each kind
    test: int = 250  # problems
    max_new: int = 80  # tokens of a reply; the longest to two steps has 65
    looks: tuple[int, ...] = (0, 10, 20, 30)  # steps at which gradients are compared
    looked_at: int = 24  # pairs


PRESETS = {
    "ci": Preset(
        C=48,
        demonstrations=2000,
        sft_B=32,
        sft_steps=100,
        pairs=160,
        recipe=Recipe(steps=20, B=8, lr=1e-3, beta=0.5, nll=1.0),
        held_out=12,
        test=32,
        looks=(0, 10),
        looked_at=8,
    ),
    "cpu": Preset(),
    "t4": Preset(
        difficulty=Difficulty(steps=6, most=99),
        C=256,
        L=6,
        T=256,
        demonstrations=50_000,
        sft_B=256,
        sft_steps=2000,
        sft_lr=1e-2,
        precision="fp16",
        pairs=20_000,
        recipe=Recipe(steps=300, B=64, lr=5e-4, beta=0.5, nll=1.0),
        every=25,
        held_out=256,
        test=1000,
        max_new=144,
    ),
    "h200": Preset(
        difficulty=Difficulty(steps=8, most=99),
        C=512,
        L=8,
        T=256,
        demonstrations=200_000,
        sft_B=512,
        sft_steps=3000,
        sft_lr=1e-2,
        precision="bf16",
        pairs=50_000,
        recipe=Recipe(steps=500, B=128, lr=3e-4, beta=0.5, nll=1.0),
        every=50,
        held_out=512,
        test=2000,
        max_new=168,
    ),
}


def run(preset: str, seed: int) -> dict:
    """All of the experiment. Raises ValueError for an unknown preset."""
    setup = preset_named(PRESETS, preset)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sft, seconds = fine_tune(setup, seed, device)
    asked = problems(TEST_SEED, setup.test, setup.difficulty, "test")
    exam = Exam(sft, asked, max_new=setup.max_new)
    shown = style_pairs(seed, setup.pairs, setup.difficulty)
    data = dict.fromkeys(recipes(setup), pairs_of(shown))
    data["padding"] = padding_counted(data["dpo"])
    turned = pairs_of(with_labels_turned(shown, setup.turned, seed))
    data["noisy"] = data["smoothed"] = turned
    held = pairs_of(
        style_pairs(HELD_OUT_SEED, setup.held_out, setup.difficulty, "test")
    )
    ways = {}
    for name, recipe in recipes(setup).items():
        model = copy.deepcopy(sft)
        curve, cpu = prefer(model, data[name], held, recipe, setup.every, seed)
        rollouts = exam.answers(model)
        samples = [rollout.reply for rollout in rollouts[:3]]
        grades = rounded(asdict(exam.grade(rollouts)))
        ways[name] = {**grades, "curve": curve, "cpu_seconds": cpu, "samples": samples}
        if name == "dpo":
            trained = model
    return {
        "config": json.loads(json.dumps(asdict(setup))),  # lists: JSON has no tuples
        "device": device,
        "sft": {
            **rounded(asdict(exam.grade(exam.answers(sft)))),
            "cpu_seconds": seconds,
            "samples": exam.theirs[:3],
        },
        "ways": ways,
        "rewards": agreements(trained, sft, explicit(sft, shown, setup), setup),
        "displacement": displacement(sft, data["no nll"], held, setup, seed),
    }


def recipes(setup: Preset) -> dict[str, Recipe]:
    """The ways that are compared."""
    right = setup.recipe
    return {
        "dpo": right,
        "hinge": replace(right, kind="hinge"),
        "ipo": replace(right, kind="ipo", beta=setup.ipo_beta),
        "no nll": replace(right, nll=0.0),
        "small beta": replace(right, nll=0.0, beta=right.beta / 10),
        "high lr": replace(right, lr=10 * right.lr),
        "padding": right,
        "noisy": right,
        "smoothed": replace(right, label_smoothing=setup.turned),
    }


def fine_tune(setup: Preset, seed: int, device: str = "cpu") -> tuple[GPT, float]:
    """SFT on demonstrations in mixed styles; the model and its CPU-seconds."""
    rng = random.Random(f"demonstrations {seed}")
    shown = []
    for _ in range(setup.demonstrations):
        problem = draw(rng, setup.difficulty)
        style = Style(polite=rng.random() < 0.5, rambling=rng.random() < 0.5)
        shown.append((problem.question, style.reply(rng, problem)))
    torch.manual_seed(seed)
    V = tokenizer().vocab_size
    config = GPTConfig(V=V, T=setup.T, C=setup.C, L=setup.L, H=4, H_kv=2)
    model = GPT(config).to(device)
    pool = Pool.of(shown, B=setup.sft_B, seed=seed, device=device)
    trainer = sft_trainer(
        model, pool, setup.sft_steps, setup.sft_lr, precision=setup.precision
    )
    before = time.process_time()
    fit(trainer)
    return model.eval(), round(time.process_time() - before, 1)


def pairs_of(preferences: list[Preference]) -> Pairs:
    """Preferences as tokens."""
    return Pairs.of([(p.question, p.chosen, p.rejected) for p in preferences])


def padding_counted(pairs: Pairs) -> Pairs:
    """The planted fault: the shorter reply of each pair goes on, with padding.

    That is what a loss sees whose mask forgets to leave padding out.
    """
    pad = tokenizer().special_id(PAD)

    def padded(ours: list[int], theirs: list[int]) -> list[int]:
        return ours + [pad] * (len(theirs) - len(ours))

    both = list(zip(pairs.chosen, pairs.rejected, strict=True))
    chosen = [padded(up, down) for up, down in both]
    rejected = [padded(down, up) for up, down in both]
    return Pairs(pairs.prompts, chosen, rejected)


def prefer(
    model: GPT, pairs: Pairs, held: Pairs, recipe: Recipe, every: int, seed: int
) -> tuple[dict[str, list], float]:
    """Train on pairs: curves on held-out pairs, CPU-seconds of the training.

    A curve has, after so many steps: loss (on the batches in between), chosen and
    rejected (mean change of log p since the start, nats), accuracy (of the sign).
    """
    start = pair_logprobs(model, held)
    before = time.process_time()
    trainer = dpo_trainer(model, pairs, recipe, seed)
    cpu = time.process_time() - before
    curve = {k: [] for k in ("step", "loss", "chosen", "rejected", "accuracy")}
    _point(curve, 0, None, torch.zeros_like(start))
    while trainer.step < recipe.steps:
        before = time.process_time()
        steps = min(every, recipe.steps - trainer.step)
        losses = [trainer.train_step().loss for _ in range(steps)]
        cpu += time.process_time() - before
        _point(curve, trainer.step, fmean(losses), pair_logprobs(model, held) - start)
    model.eval()
    return curve, round(cpu, 1)


def _point(curve: dict[str, list], step: int, loss: float | None, ratios: Tensor):
    """ratios: (2, N), log policy - log reference of held-out replies."""
    curve["step"].append(step)
    curve["loss"].append(None if loss is None else round(loss, 4))
    curve["chosen"].append(round(ratios[0].mean().item(), 3))
    curve["rejected"].append(round(ratios[1].mean().item(), 3))
    curve["accuracy"].append(round(accuracy(ratios[0] - ratios[1]), 3))


def explicit(sft: GPT, shown: list[Preference], setup: Preset) -> RewardModel:
    """A reward model from the same start, on the same pairs, for as many steps."""
    model = RewardModel(sft)
    device = str(next(sft.parameters()).device)
    pool = PairPool.of(shown, B=setup.recipe.B, device=device)
    fit(reward_trainer(model, pool, setup.recipe.steps))
    return model.eval()


def agreements(
    model: GPT, sft: GPT, explicit: RewardModel, setup: Preset
) -> dict[str, dict]:
    """How often each reward prefers what the judge prefers, by kind of pair.

    margin: mean difference of the log-ratios, in nats. together: how often the
    implicit and the explicit reward prefer the same reply. All pairs are held out.
    """
    n, difficulty = setup.held_out, setup.difficulty
    kinds = {"style": style_pairs(HELD_OUT_SEED, n, difficulty, "test")}
    kinds |= unlike_pairs(HELD_OUT_SEED, n, difficulty, "test")
    rows = {}
    for kind, preferences in kinds.items():
        pairs = pairs_of(preferences)
        ratios = pair_logprobs(model, pairs) - pair_logprobs(sft, pairs)  # (2, N)
        ours = (ratios[0] - ratios[1]).cpu()
        better, worse = (
            rewards_of(explicit, [(p.question, getattr(p, side)) for p in preferences])
            for side in ("chosen", "rejected")
        )
        theirs = better - worse
        rows[kind] = rounded(
            {
                "implicit": accuracy(ours),
                "explicit": accuracy(theirs),
                "together": accuracy(ours * theirs),
                "margin": ours.mean().item(),
            }
        )
    return rows


def displacement(sft: GPT, train: Pairs, held: Pairs, setup: Preset, seed: int):
    """What a small step would do to held-out replies, along a run without the term.

    A row for each step of `setup.looks`: own_falls (share of pairs for which a step on
    that pair alone lowers its chosen reply), cosine (of the two gradients), chosen and
    rejected (mean change for a small step on the next batch, in nats a unit of learning
    rate), batch_falls (share of chosen replies that it lowers).
    """
    recipe = recipes(setup)["no nll"]
    model = copy.deepcopy(sft)
    trainer = dpo_trainer(model, train, recipe, seed)
    device = str(next(sft.parameters()).device)
    some = range(min(setup.looked_at, len(held)))
    replies, rows = held.batch(some, device), []
    for step in setup.looks:
        while trainer.step < step:
            trainer.train_step()
        own = [pulls(model, held.batch([i], device)) for i in some]
        loss = loss_of(recipe, model, trainer.batches(step)) / recipe.B
        chosen, rejected = influence(model, replies, loss).chunk(2)
        found = {
            "own_falls": fmean(p.chosen_falls for p in own),
            "cosine": fmean(p.cross / (p.own * p.other) ** 0.5 for p in own),
            "batch_falls": (chosen < 0).double().mean().item(),
            "chosen": chosen.mean().item(),
            "rejected": rejected.mean().item(),
        }
        rows.append({"step": step, **rounded(found)})
    return rows


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Four decimals are more than three seeds can tell."""
    return {name: round(value, 4) for name, value in values.items()}
