"""The experiment of the chapter: what a reward model learns, and where it is fooled.

`run(preset, seed)` trains reward models on labelled pairs and returns numbers:

    sizes     accuracy and calibration against the number of pairs, from the body of the
              cold start; `scratch`: the same from fresh weights
    noise     the same number of pairs, more and more labels turned round
    length    annotators who like words: what adding an empty sentence earns
    best_of_n proxy and gold of the proxy's favourite among n
    faults    planted ones: pairs across prompts, a learning rate, padding that is read

The gold is fixed (`reward_model_gold`) and never trained on. Run it over seeds with
`python -m ci.measure reward_model cpu`.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from posttrain import artifacts
from posttrain.alignment.chat_sft_artifact import restore
from posttrain.alignment.reward_model import RewardModel
from posttrain.alignment.reward_model_faults import LastColumn, across_prompts
from posttrain.alignment.reward_model_gold import draft_reply, gold, read, wrong_answer
from posttrain.alignment.reward_model_labels import Annotator, Pair, draw_pairs
from posttrain.alignment.reward_model_measures import (
    accuracy,
    best_of_n,
    best_of_n_kl,
    calibration_error,
    fit_temperature,
    pair_loss,
    reliability,
)
from posttrain.alignment.reward_model_training import (
    PairPool,
    Preference,
    reward_trainer,
    rewards_of,
)
from posttrain.alignment.word_problem_styles import RAMBLING
from posttrain.alignment.word_problems import Difficulty, problems
from posttrain.foundations.modern_architecture import GPT
from posttrain.foundations.trainer import fit
from posttrain.presets import preset_named

VERSION = 1
TEST_SEED = 20_000  # the test pairs and the pool are the same for every seed
CROWD = 5  # annotators who label each test pair


@dataclass(frozen=True)
class Preset:
    """Sizes of one run."""

    cold_start: str  # the preset of the artifact whose body is used
    sizes: tuple[int, ...] = (64, 256, 1024, 4096)  # pairs
    scratch: tuple[int, ...] = (1024,)
    middle: int = 1024  # pairs of all arms below
    flips: tuple[float, ...] = (0.3, 1.0)
    per_word: float = 0.15
    faults: bool = True
    steps: int = 48  # at least; every pair is seen at least once
    B: int = 32
    lr: float = 1e-2
    bad_lr: float = 0.5
    tests: int = 1000
    prompts: int = 64
    replies: int = 128  # to each prompt of the best-of-n pool
    precision: str = "fp32"


PRESETS = {
    "ci": Preset(
        cold_start="ci",
        sizes=(64, 640),
        scratch=(),
        middle=640,
        flips=(),
        faults=False,
        steps=20,
        tests=200,
        prompts=16,
        replies=32,
    ),
    "cpu": Preset(cold_start="ci"),
    "t4": Preset(
        cold_start="t4",
        sizes=(256, 2048, 16_384, 131_072),
        scratch=(16_384,),
        middle=16_384,
        steps=256,
        B=128,
        lr=2e-3,
        prompts=128,
        replies=512,
        precision="fp16",
    ),
    "h200": Preset(
        cold_start="h200",
        sizes=(256, 2048, 16_384, 262_144),
        scratch=(16_384,),
        middle=16_384,
        steps=256,
        B=256,
        lr=2e-3,
        prompts=256,
        replies=1024,
        precision="bf16",
    ),
}


def run(preset: str, seed: int) -> dict:
    """All parts; a JSON-able dict. Raises ValueError for an unknown preset."""
    setup = preset_named(PRESETS, preset)
    body, cold = restore(artifacts.get("alignment.chat_sft", setup.cold_start))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    result = Lab(setup, seed, body.to(device), cold.difficulty).everything()
    config = json.loads(json.dumps(asdict(setup)))  # lists, as JSON has no tuples
    return {"preset": preset, "seed": seed, "config": config, **result}


@dataclass
class Lab:
    """A body to start from, pairs to learn from, and the fixed tests.

    The annotators draw their labels with the probability of Bradley and Terry's model,
    at temperature 1 of the gold: a perfect reward model would be the gold itself.
    """

    setup: Preset
    seed: int
    body: GPT
    difficulty: Difficulty

    def __post_init__(self):
        rng = random.Random(TEST_SEED)
        setup = self.setup
        self.honest = Annotator(temperature=1.0)
        self.tests = draw_pairs(rng, setup.tests, self.difficulty, "test")
        self.wins = crowd_wins(rng, self.tests, self.honest)
        self.same_form = [
            only_the_answer(rng, p) for p in self.tests[: setup.tests // 4]
        ]
        self.longer = [
            one_more_sentence(rng, p) for p in self.tests[: setup.tests // 4]
        ]
        asked = problems(TEST_SEED, setup.prompts, self.difficulty, "test")
        self.pool = [
            [(p, draft_reply(rng, p).reply) for _ in range(setup.replies)]
            for p in asked
        ]

    def everything(self) -> dict:
        """Every part of the result."""
        setup = self.setup
        honest = self.honest
        models = {n: self.train(self.labels(n, honest)) for n in setup.sizes}
        biased = replace(honest, per_word=setup.per_word)
        liking, corrected = self.length_models(biased)
        return {
            "ceiling": self.ceiling(),
            "sizes": [{"pairs": n, **self.measure(m)} for n, m in models.items()],
            "scratch": [
                {"pairs": n, **self.measure(self.train(self.labels(n, honest), True))}
                for n in setup.scratch
            ],
            "noise": [{"flips": f, **self.measure(self.noisy(f))} for f in setup.flips],
            "length": {
                "honest": self.liking_of_words(models[setup.middle]),
                "biased": self.liking_of_words(liking),
                "corrected": self.liking_of_words(corrected),
            },
            "best_of_n": [
                {"pairs": n, **self.optimise(model)} for n, model in models.items()
            ],
            "best_of_n_biased": {"pairs": setup.middle, **self.optimise(liking)},
            "faults": self.faults(models[setup.middle]) if setup.faults else {},
        }

    # ------------------------------------------------------------------ training

    def labels(self, n: int, annotator: Annotator) -> list[Preference]:
        """n labelled pairs of this seed."""
        pairs = draw_pairs(random.Random(f"pairs {self.seed}"), n, self.difficulty)
        return annotator(random.Random(f"labels {self.seed}"), pairs)

    def train(
        self,
        preferences: list[Preference],
        scratch: bool = False,
        kind: type[RewardModel] = RewardModel,
        lr: float | None = None,
        log: list | None = None,
    ) -> RewardModel:
        """A reward model that was shown these pairs, each at least once."""
        setup = self.setup
        torch.manual_seed(self.seed)
        device = next(self.body.parameters()).device
        model = kind(GPT(self.body.config).to(device) if scratch else self.body)
        pool = PairPool.of(preferences, B=setup.B, seed=self.seed, device=device.type)
        trainer = reward_trainer(
            model,
            pool,
            max(setup.steps, len(preferences) // setup.B),
            lr or setup.lr,
            precision=setup.precision,
        )
        fit(trainer, log.append if log is not None else lambda record: None)
        return model.eval()

    def noisy(self, flips: float) -> RewardModel:
        """Trained on labels of which a share was turned round."""
        annotator = replace(self.honest, flips=flips)
        return self.train(self.labels(self.setup.middle, annotator))

    def length_models(self, biased: Annotator) -> tuple[RewardModel, RewardModel]:
        """Trained on biased labels: as they are, and with the liking taken out.

        What words add to the odds goes into the margin with its sign turned round: the
        reward has to explain what is left.
        """
        labels = self.labels(self.setup.middle, biased)
        without = [replace(p, margin=-biased.per_word * more_words(p)) for p in labels]
        return self.train(labels), self.train(without)

    # ------------------------------------------------------------------ measuring

    def margins(self, model: RewardModel, pairs: list[Pair]) -> Tensor:
        """Reward of a minus reward of b: (N,)."""
        asked = [(p.problem.question, p.a) for p in pairs]
        asked += [(p.problem.question, p.b) for p in pairs]
        first, second = rewards_of(model, asked).chunk(2)
        return first - second

    def measure(self, model: RewardModel) -> dict:
        """Accuracy against the gold, by kind of pair; loss and calibration against a
        crowd of annotators, before and after one temperature was fitted."""
        margins = self.margins(model, self.tests)
        gaps = torch.tensor([pair.gap for pair in self.tests])
        n = len(margins) // 3  # for fitting the temperature
        T = fit_temperature(margins[:n], self.wins[:n])
        kept, wins = margins[n:], self.wins[n:]
        before, after = torch.sigmoid(kept), torch.sigmoid(kept / T)
        return {
            "accuracy": accuracy((margins * gaps.sign())[gaps != 0]),
            "only_the_answer": accuracy(self.margins(model, self.same_form)),
            "loss": pair_loss(kept, wins),
            "loss_after": pair_loss(kept / T, wins),
            "error": calibration_error(before, wins),
            "error_after": calibration_error(after, wins),
            "temperature": T,
            "bins": [asdict(bin) for bin in reliability(before, wins)],
        }

    def ceiling(self) -> dict:
        """How one annotator and the gold itself do on the same tests."""
        gaps = torch.tensor([pair.gap for pair in self.tests])
        agreed = torch.where(gaps > 0, self.wins, 1 - self.wins)[gaps != 0]
        return {
            "annotator": agreed.mean().item(),
            "loss": pair_loss(gaps, self.wins),
            "ties": (gaps == 0).double().mean().item(),
        }

    def liking_of_words(self, model: RewardModel) -> dict:
        """What one empty sentence more earns (the gold: -0.5), all else kept."""
        gains = self.margins(model, self.longer)
        gaps = torch.tensor([pair.gap for pair in self.tests])
        margins = self.margins(model, self.tests) * gaps.sign()
        return {
            "gain": gains.mean().item(),
            "prefers_longer": accuracy(gains),
            "accuracy": accuracy(margins[gaps != 0]),
        }

    def optimise(self, model: RewardModel) -> dict:
        """Best-of-n against this proxy, for n = 1, 2, 4, ...: what the favourite is."""
        flat = [(p.question, reply) for row in self.pool for p, reply in row]
        proxy = rewards_of(model, flat).view(len(self.pool), -1)  # (P, N)
        ns = [2**i for i in range(self.setup.replies.bit_length())]

        def curve(value) -> list[float]:
            rows = [[value(p, reply) for p, reply in row] for row in self.pool]
            values = torch.tensor(rows, dtype=torch.float64)
            return [best_of_n(proxy, values, n) for n in ns]

        worth = torch.tensor([[gold(*each) for each in row] for row in self.pool])
        return {
            "n": ns,
            "kl": [best_of_n_kl(n) for n in ns],
            "proxy": [best_of_n(proxy, proxy, n) for n in ns],
            "gold": [best_of_n(proxy, worth, n) for n in ns],
            "best_possible": [best_of_n(worth, worth, n) for n in ns],
            "right": curve(lambda p, reply: read(reply).answer == p.answer),
            "polite": curve(lambda p, reply: read(reply).polite),
            "rambling": curve(lambda p, reply: read(reply).rambling),
            "words": curve(lambda p, reply: read(reply).words),
        }

    # ------------------------------------------------------------------ faults

    def faults(self, sound: RewardModel) -> dict:
        """Each trained on the pairs of `sound`, or on what a mistake made of them."""
        labels = self.labels(self.setup.middle, self.honest)
        log = []
        try:
            wild = self.train(labels, lr=self.setup.bad_lr, log=log)
            bad_lr = self.measure(wild)["accuracy"]
        except FloatingPointError:  # the trainer stops by itself
            bad_lr = None
        mixed = self.train(across_prompts(labels))
        column = self.train(labels, kind=LastColumn)
        return {
            "learning_rate": {
                "accuracy": bad_lr,
                "losses": [record.loss for record in log],
            },
            "across_prompts": self.measure(mixed)["accuracy"],
            "last_column": self.padding(column),
            "last_token": self.padding(sound),
        }

    def padding(self, model: RewardModel) -> dict:
        """Accuracy, and verdicts that change, when rows get more padding."""
        tests = [pair for pair in self.tests if pair.gap][: self.setup.tests // 2]
        signs = torch.tensor([pair.gap for pair in tests]).sign()
        asked = [(p.problem.question, p.a) for p in tests]
        asked += [(p.problem.question, p.b) for p in tests]
        found = []
        for B in (1, len(asked)):  # no padding at all; up to the longest of all
            first, second = rewards_of(model, asked, B).chunk(2)
            found.append((first - second) * signs)
        turned = ((found[0] > 0) != (found[1] > 0)).double().mean().item()
        return {
            "alone": accuracy(found[0]),
            "together": accuracy(found[1]),
            "turned": turned,
        }


def crowd_wins(rng: random.Random, pairs: list[Pair], annotator: Annotator) -> Tensor:
    """The share of CROWD annotators who prefer a, a tie being half a vote: (N,)."""
    votes = [
        [
            label.target if label.chosen == pair.a else 1 - label.target
            for label, pair in zip(labels, pairs, strict=True)
        ]
        for labels in (annotator(rng, pairs) for _ in range(CROWD))
    ]
    return torch.tensor(votes, dtype=torch.float64).mean(dim=0)


def only_the_answer(rng: random.Random, pair: Pair) -> Pair:
    """A right reply that thinks, and the same with a wrong last line."""
    p = pair.problem
    draft = replace(draft_reply(rng, p), thinking=";".join(p.steps), answer=p.answer)
    return Pair(p, draft.reply, replace(draft, answer=wrong_answer(rng, p)).reply)


def one_more_sentence(rng: random.Random, pair: Pair) -> Pair:
    """A reply with one more sentence that says nothing, and without it."""
    draft = draft_reply(rng, pair.problem)
    longer = replace(draft, said=(*draft.said, rng.choice(RAMBLING)))
    return Pair(pair.problem, longer.reply, draft.reply)


def more_words(preference: Preference) -> int:
    """By how many words the chosen reply is longer."""
    return read(preference.chosen).words - read(preference.rejected).words
