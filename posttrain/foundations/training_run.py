"""A training run: its recipe, its text, its folder.

    run = Run.begin(PRESETS["cpu"], Path("runs/shakespeare"))
    fit(run.trainer, hooks=[(200, run.save)])
    run.validate(), run.sample("ROMEO:", 200)
    model, tokenizer = load_model(Path("runs/shakespeare"))

From the command line: `python -m posttrain.foundations.training_loop`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from posttrain import data
from posttrain.foundations import checkpoint
from posttrain.foundations.batches import Windows, mean_loss
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.optimizers import AdamW
from posttrain.foundations.optimizers_groups import muon_and_adamw, parameter_groups
from posttrain.foundations.optimizers_schedules import wsd
from posttrain.foundations.sampling import Sampling
from posttrain.foundations.sampling_generate import generate
from posttrain.foundations.tokenization import Tokenizer, char_tokenizer
from posttrain.foundations.trainer import Trainer
from posttrain.foundations.transformer import GPT2, GPT2Config


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights: equal recipes on equal text give equal models."""

    model: str = "modern"  # or "gpt2"
    depth: int = 4  # the dial of size: layers, and 32 channels for each
    context: int = 256  # positions that the model has
    T: int = 64  # tokens of a training window
    B: int = 16  # windows of a micro-batch
    micro_batches: int = 1
    steps: int = 900
    optimizer: str = "muon"  # or "adamw"
    lr: float = 1e-2
    weight_decay: float = 0.1
    warmup: int = 10  # steps
    decay: float = 0.5  # share of the steps
    max_norm: float = 1.0
    dropout: float = 0.0
    precision: str = "fp32"
    data: str = "tinyshakespeare"
    seed: int = 0


PRESETS = {
    "ci": Recipe(depth=2, context=128, T=32, steps=150),
    "cpu": Recipe(),
    "t4": Recipe(
        depth=8, context=512, T=256, B=64, steps=2000, dropout=0.2, precision="fp16"
    ),
    "h200": Recipe(
        depth=12, context=512, T=256, B=128, steps=3000, dropout=0.2, precision="bf16"
    ),
}


@dataclass(frozen=True)
class Text:
    """A corpus as tokens: nine tenths to train on, the last tenth to validate."""

    tokenizer: Tokenizer
    train: np.ndarray  # (N,) uint16
    val: np.ndarray  # (M,)
    about: dict  # name, source, sha256


def load_text(name: str) -> Text:
    """The corpus `name`, a token for each character."""
    corpus = data.load(name)
    tokenizer = char_tokenizer(corpus.text)
    tokens = np.array(tokenizer.encode(corpus.text), dtype=np.uint16)
    cut = len(tokens) * 9 // 10
    about = {"name": name, "source": corpus.source, "sha256": corpus.sha256}
    return Text(tokenizer, tokens[:cut], tokens[cut:], about)


def make_model(recipe: Recipe, V: int) -> GPT | GPT2:
    """A fresh model; the same one for the same seed. Raises ValueError for bad ones."""
    torch.manual_seed(recipe.seed)
    depth, options = recipe.depth, {"T": recipe.context, "dropout": recipe.dropout}
    if recipe.model == "modern":
        return GPT(GPTConfig.of_depth(depth, V=V, **options))
    if recipe.model == "gpt2":
        return GPT2(GPT2Config(V=V, C=32 * depth, L=depth, H=depth, **options))
    raise ValueError(f"model={recipe.model!r}: use 'modern' or 'gpt2'")


def make_trainer(recipe: Recipe, model: nn.Module, text: Text) -> Trainer:
    """Optimizers, schedule and batches of a recipe. Raises ValueError for bad ones."""
    if recipe.optimizer == "muon":
        optimizers = muon_and_adamw(model, recipe.lr, recipe.weight_decay)
    elif recipe.optimizer == "adamw":
        groups = parameter_groups(model.parameters(), recipe.weight_decay)
        optimizers = [AdamW(groups, lr=recipe.lr)]
    else:
        raise ValueError(f"optimizer={recipe.optimizer!r}: use 'muon' or 'adamw'")
    schedule = partial(
        wsd,
        total=recipe.steps,
        warmup=recipe.warmup,
        decay=max(1, round(recipe.decay * recipe.steps)),
        floor=0.02,
    )
    device = next(model.parameters()).device
    return Trainer(
        model,
        optimizers,
        Windows(text.train, recipe.B, recipe.T, recipe.seed, str(device)),
        schedule=schedule,
        steps=recipe.steps,
        micro_batches=recipe.micro_batches,
        max_norm=recipe.max_norm,
        precision=recipe.precision,
    )


@dataclass
class Run:
    """A trainer, its text, and the folder where both leave their traces."""

    recipe: Recipe
    trainer: Trainer
    text: Text
    folder: Path | None = None

    @classmethod
    def begin(cls, recipe: Recipe, folder: Path | None = None, device="cpu") -> Run:
        """A run at step 0. Raises CheckpointError if `folder` holds one already."""
        if folder and (found := checkpoint.steps(folder)):
            raise checkpoint.CheckpointError(
                f"{folder} holds a run at step {found[-1]}; add --resume to go on with"
                " it, or choose another --out"
            )
        text = load_text(recipe.data)
        model = make_model(recipe, text.tokenizer.vocab_size).to(device)
        run = cls(recipe, make_trainer(recipe, model, text), text, folder)
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            text.tokenizer.save(folder / "tokenizer.json")
            about = json.dumps(run.identity(), indent=1)
            (folder / "run.json").write_text(about + "\n")
        return run

    @classmethod
    def resume(
        cls, recipe: Recipe, folder: Path, device="cpu", step: int | None = None
    ) -> Run:
        """Go on from the newest checkpoint, or that of `step`.

        Raises CheckpointError as `checkpoint.load` does, a different recipe included.
        """
        text = load_text(recipe.data)
        model = make_model(recipe, text.tokenizer.vocab_size).to(device)
        run = cls(recipe, make_trainer(recipe, model, text), text, folder)
        state = checkpoint.load(folder, run.identity(), step)
        run.trainer.load_state_dict(state)
        return run

    def identity(self) -> dict:
        """What must be equal for a resume: the recipe, the text."""
        sha256 = self.text.about["sha256"]
        return {"recipe": asdict(self.recipe), "text": {"sha256": sha256}}

    def save(self) -> Path:
        """A checkpoint of the present step."""
        state = self.trainer.state_dict()
        return checkpoint.save(self.folder, self.trainer.step, state, self.identity())

    def validate(self, windows: int = 256, T: int | None = None) -> float:
        """Nats a token on fixed windows of the validation text."""
        return self._mean_loss(self.text.val, windows, T)

    def training_loss(self, windows: int = 256, T: int | None = None) -> float:
        """The same on the training text. The gap is what was learned by heart."""
        return self._mean_loss(self.text.train, windows, T)

    def _mean_loss(self, tokens: np.ndarray, windows: int, T: int | None) -> float:
        device = str(next(self.trainer.model.parameters()).device)
        source = Windows(tokens, self.recipe.B, T or self.recipe.T, device=device)
        return mean_loss(self.trainer.model, source.fixed(windows))

    def sample(self, prompt: str, n: int, seed: int = 0) -> str:
        """`n` tokens after a prompt, drawn at temperature 0.8."""
        model, tokenizer = self.trainer.model, self.text.tokenizer
        device = next(model.parameters()).device
        rows = generate(
            model,
            [tokenizer.encode(prompt)],
            n,
            settings=Sampling(temperature=0.8),
            generator=torch.Generator(device).manual_seed(seed),
            slide=True,
        )
        return tokenizer.decode(rows[0].tokens)


def load_model(folder: Path, device: str = "cpu") -> tuple[GPT | GPT2, Tokenizer]:
    """The model and tokenizer of the newest checkpoint in `folder`; needs no text.

    Raises CheckpointError for a folder without a run, and as `checkpoint.load` does.
    """
    about = folder / "run.json"
    if not about.is_file():
        raise checkpoint.CheckpointError(f"{folder} holds no run: {about} is missing")
    recipe = Recipe(**json.loads(about.read_text())["recipe"])
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    model = make_model(recipe, tokenizer.vocab_size)
    model.load_state_dict(checkpoint.load(folder)["model"])
    return model.to(device).eval(), tokenizer
