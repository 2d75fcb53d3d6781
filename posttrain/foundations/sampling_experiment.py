"""The experiment of the chapter: one model, many ways to draw from it.

`run(preset, seed)` trains two small models and returns numbers:

    text    a character model of Shakespeare, continued from real prompts: temperature
            and each cut over its range, two cuts at a high temperature, greedy, greedy
            with a repetition penalty, beam search; beside them what Shakespeare wrote
    game    a model that makes a number from three digits (`sampling_game`): pass@k,
            votes, and the groups that reinforcement learning could learn from, over
            temperatures and over top-p

The model, the prompts and the draws all follow the seed. Run it over seeds with
`python -m ci.measure sampling cpu`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import torch
from torch import nn

from posttrain.foundations import sampling_game as game
from posttrain.foundations import training_run
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.optimizers_groups import muon_and_adamw
from posttrain.foundations.optimizers_schedules import wsd
from posttrain.foundations.sampling import Sampling
from posttrain.foundations.sampling_beam import beam_search
from posttrain.foundations.sampling_generate import generate
from posttrain.foundations.sampling_measures import (
    majority,
    mixed_groups,
    pass_at_k,
    score,
    word_measures,
    words,
)
from posttrain.foundations.trainer import Trainer, fit
from posttrain.foundations.training_run import Recipe, Run
from posttrain.presets import preset_named

VERSION = 1
GROUP = 8  # tries a prompt in a step of group-relative reinforcement learning
BINS = 14  # of the positions in an answer

Make = Callable[[float], Sampling]
FAMILIES: dict[str, Make] = {
    "temperature": lambda x: Sampling(temperature=x),
    "top-k": lambda x: Sampling(top_k=int(x)),
    "top-p": lambda x: Sampling(top_p=x),
    "min-p": lambda x: Sampling(min_p=x),
    "top-p, hot": lambda x: Sampling(temperature=1.5, top_p=x),
    "min-p, hot": lambda x: Sampling(temperature=1.5, min_p=x),
    "greedy, penalty": lambda x: Sampling(temperature=0, repetition_penalty=x),
}
VALUES = {
    "temperature": (0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5),
    "top-k": (2, 3, 5, 10, 20),
    "top-p": (0.3, 0.5, 0.7, 0.8, 0.9, 0.95),
    "min-p": (0.4, 0.2, 0.1, 0.05, 0.02),
    "top-p, hot": (0.3, 0.5, 0.7, 0.9),
    "min-p, hot": (0.4, 0.2, 0.1, 0.05),
    "greedy, penalty": (1.1, 1.3),
}
FEW = {
    "temperature": (0.5, 1.0, 1.5),
    "top-k": (2, 10),
    "top-p": (0.5, 0.9),
    "min-p": (0.2, 0.05),
    "top-p, hot": (0.7,),
    "min-p, hot": (0.1,),
    "greedy, penalty": (1.3,),
}


@dataclass(frozen=True)
class Preset:
    """Sizes of one run of the experiment."""

    recipe: Recipe
    prompts: int  # texts that are continued
    prompt_length: int
    values: dict[str, tuple[float, ...]]
    beams: tuple[int, ...]  # widths; 1 is greedy
    beam_prompts: int
    game_depth: int
    game_B: int
    game_steps: int
    puzzles: int
    tries: int  # answers drawn for each puzzle
    temperatures: tuple[float, ...]
    cuts: tuple[float, ...] = ()  # top-p of the game, at temperature 1
    ks: tuple[int, ...] = field(default=(1, 2, 4, 8, 16, 32, 64))


PRESETS = {
    "ci": Preset(
        recipe=Recipe(depth=2, context=64, T=64, B=8, steps=120),
        prompts=32,
        prompt_length=16,
        values=FEW,
        beams=(1, 4),
        beam_prompts=4,
        game_depth=2,
        game_B=64,
        game_steps=80,
        puzzles=40,
        tries=16,
        temperatures=(0.5, 1.0, 2.0),
        cuts=(0.7,),
        ks=(1, 2, 4, 8, 16),
    ),
    "cpu": Preset(
        recipe=Recipe(context=128, T=128, B=8, steps=500),
        prompts=128,
        prompt_length=16,
        values=VALUES,
        beams=(1, 2, 4, 8),
        beam_prompts=48,
        game_depth=3,
        game_B=128,
        game_steps=300,
        puzzles=195,
        tries=64,
        temperatures=(0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0),
        cuts=(0.5, 0.7, 0.9),
    ),
}
PRESETS["t4"] = replace(
    PRESETS["cpu"],
    recipe=replace(training_run.PRESETS["t4"], context=256),
    prompts=512,
    beams=(1, 2, 4, 8, 16),
    beam_prompts=128,
    game_depth=6,
    game_steps=1000,
)
PRESETS["h200"] = replace(
    PRESETS["t4"],
    recipe=replace(training_run.PRESETS["h200"], context=256),
    prompts=1024,
    game_depth=8,
)


def run(preset: str, seed: int) -> dict:
    """Both parts; a JSON-able dict. Raises ValueError for an unknown preset."""
    setup = preset_named(PRESETS, preset)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = json.loads(json.dumps(asdict(setup)))  # lists, as JSON has no tuples
    config["recipe"]["seed"] = seed
    return {
        "preset": preset,
        "seed": seed,
        "config": config,
        "text": run_text(setup, seed, device),
        "game": run_game(setup, seed, device),
    }


# -------------------------------------------------------------------------- text


def run_text(setup: Preset, seed: int, device: str) -> dict:
    """Train the character model, then continue the same prompts in many ways."""
    trained = Run.begin(replace(setup.recipe, seed=seed), device=device)
    fit(trained.trainer)
    writer = Writer.of(trained, setup, seed)
    families = {
        name: [
            {"value": value, **writer.draw(FAMILIES[name](value))} for value in values
        ]
        for name, values in setup.values.items()
    }
    return {
        "data": trained.text.about,
        "val": trained.validate(64),
        "vocabulary": len(writer.vocabulary),
        "human": writer.human(),
        "greedy": writer.draw(Sampling(temperature=0)),
        "beam": [
            {"value": K, **writer.beam(K, setup.beam_prompts)} for K in setup.beams
        ],
        "families": families,
    }


@dataclass
class Writer:
    """A trained model, and the prompts that it continues: pieces of unseen text."""

    model: nn.Module
    decode: Callable[[Sequence[int]], str]
    prompts: list[list[int]]
    answers: list[list[int]]  # what the author wrote
    vocabulary: frozenset[str]  # words of the training text
    seed: int

    @classmethod
    def of(cls, trained: Run, setup: Preset, seed: int) -> Writer:
        """Prompts from the validation text, at places that the seed draws."""
        text, T = trained.text, setup.recipe.context
        starts = random.Random(seed).sample(range(len(text.val) - T), setup.prompts)
        whole = [text.val[start : start + T].tolist() for start in starts]
        known = words(text.tokenizer.decode(text.train.tolist()), whole=False)
        n = setup.prompt_length
        return cls(
            trained.trainer.model.eval(),
            text.tokenizer.decode,
            [row[:n] for row in whole],
            [row[n:] for row in whole],
            frozenset(known),
            seed,
        )

    def draw(self, settings: Sampling) -> dict:
        """Continue every prompt by drawing."""
        device = next(self.model.parameters()).device
        rows = generate(
            self.model,
            self.prompts,
            len(self.answers[0]),
            settings=settings,
            generator=torch.Generator(device).manual_seed(self.seed),
        )
        return self.measure(self.prompts, [row.tokens for row in rows], settings)

    def beam(self, K: int, n: int) -> dict:
        """Continue the first n prompts by beam search."""
        found = beam_search(self.model, self.prompts[:n], len(self.answers[0]), beams=K)
        best = [beams[0].tokens for beams in found]
        return self.measure(self.prompts[:n], best, Sampling())

    def human(self) -> dict:
        """What the author wrote, measured alike."""
        return self.measure(self.prompts, self.answers, Sampling())

    def measure(self, prompts, answers, settings: Sampling) -> dict:
        """Numbers of these answers, and the first two texts."""
        scored = score(self.model, prompts, answers, settings)
        texts = [self.decode(answer) for answer in answers]
        by_position = [
            part.mean().item() for part in scored.nats.tensor_split(BINS, dim=1)
        ]
        return {
            **scored.means(),
            **word_measures(texts, self.vocabulary),
            "nats_by_position": by_position,
            "samples": [
                self.decode(p) + t for p, t in zip(prompts[:2], texts[:2], strict=True)
            ],
        }


# -------------------------------------------------------------------------- game


def run_game(setup: Preset, seed: int, device: str) -> dict:
    """Train on the number game, then try puzzles that it has not seen."""
    puzzles, unseen = game.split(seed)
    model = train_game(setup, puzzles, seed, device)
    unseen = unseen[: setup.puzzles]
    attempt = partial(try_puzzles, model.eval(), unseen, setup, seed)
    greedy = answers_of(model, unseen, 1, Sampling(temperature=0), seed)
    return {
        "puzzles": len(unseen),
        "greedy": sum(map(any, right(unseen, greedy))) / len(unseen),
        "temperature": [
            {"value": T, **attempt(Sampling(temperature=T))} for T in setup.temperatures
        ],
        "top-p": [{"value": p, **attempt(Sampling(top_p=p))} for p in setup.cuts],
    }


def train_game(setup: Preset, puzzles: dict, seed: int, device: str) -> GPT:
    """A model that has seen demonstrations of `puzzles`."""
    torch.manual_seed(seed)
    shape = GPTConfig.of_depth(setup.game_depth, V=len(game.CHARS), T=16)
    model = GPT(shape).to(device)
    trainer = Trainer(
        model,
        muon_and_adamw(model, 1e-2, 0.1),
        game.Demonstrations.of(puzzles, setup.game_B, seed, device),
        schedule=partial(
            wsd,
            total=setup.game_steps,
            warmup=10,
            decay=setup.game_steps // 2,
            floor=0.02,
        ),
        steps=setup.game_steps,
    )
    fit(trainer)
    return model


def answers_of(
    model: nn.Module, puzzles: Sequence, n: int, settings: Sampling, seed: int
) -> list[list[str]]:
    """n answers to each puzzle. Prompts differ in length: the batch is padded."""
    device = next(model.parameters()).device
    rows = generate(
        model,
        [game.encode(puzzle.prompt) for puzzle in puzzles for _ in range(n)],
        6,
        stop={game.END},
        settings=settings,
        generator=torch.Generator(device).manual_seed(seed),
    )
    said = [game.decode(row.tokens) for row in rows]
    return [said[i : i + n] for i in range(0, len(said), n)]


def right(puzzles: Sequence, answers: Sequence[Sequence[str]]) -> list[list[bool]]:
    """The verdict of the verifier on each answer."""
    return [
        [game.verify(puzzle, answer) for answer in row]
        for puzzle, row in zip(puzzles, answers, strict=True)
    ]


def try_puzzles(
    model: nn.Module, puzzles: Sequence, setup: Preset, seed: int, settings: Sampling
) -> dict:
    """pass@k and what else the tries tell, means over the puzzles."""
    n = setup.tries
    answers = answers_of(model, puzzles, n, settings, seed)
    counts = [sum(row) for row in right(puzzles, answers)]
    voted = right(puzzles, [[majority(row)] for row in answers])

    def mean(values) -> float:
        return sum(values) / len(puzzles)

    def has_form(answer: str) -> bool:
        return game.FORM.fullmatch(answer) is not None

    return {
        "pass": [mean(pass_at_k(n, c, k) for c in counts) for k in setup.ks],
        "vote": mean(row[0] for row in voted),
        "mixed": mean(mixed_groups(n, c, min(GROUP, n)) for c in counts),
        "different": mean(len(set(row)) for row in answers),
        "formed": mean(sum(map(has_form, row)) / n for row in answers),
    }
