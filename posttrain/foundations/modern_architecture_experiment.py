"""The experiment of the chapter: what does each change from GPT-2 to Llama bring?

    steps       validation loss after each change, at equal parameters
    lengths     trained at T, read at up to 4 T: learned positions, RoPE, ALiBi, none
    speed       our model beside Llama of `transformers`: training, generation
    cache       generation with the KV cache beside reading everything again
    bytes       what a cache of 2,048 tokens takes in memory, beside the formula

`run(preset, seed)` does all five. Over seeds: `python -m ci.measure modern_architecture
cpu`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch

from posttrain.foundations import modern_architecture_cache as cache
from posttrain.foundations import modern_architecture_speed as speed
from posttrain.foundations.batches import Windows, mean_loss
from posttrain.foundations.language_model import next_token_loss, parameter_count
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.modern_architecture_ablation import (
    AblationConfig,
    AblationGPT,
    steps_from_gpt2,
)
from posttrain.foundations.modern_architecture_parts import window_mask
from posttrain.foundations.optimizers_groups import muon_and_adamw
from posttrain.foundations.optimizers_schedules import wsd
from posttrain.foundations.trainer import Trainer, fit
from posttrain.foundations.training_run import Text, load_text
from posttrain.presets import preset_named

VERSION = 1

LONGER = 4  # the length test reads texts this many times as long as in training
BUCKETS = 32  # of the loss by position, over LONGER * T positions


@dataclass(frozen=True)
class Timing:
    """One comparison of speed: a shape, a batch, how often."""

    model: GPTConfig
    B: int  # of a training step
    T: int
    train_pairs: int
    new: int  # tokens to generate after a prompt of 64, one text at a time
    generate_pairs: int


@dataclass(frozen=True)
class Preset:
    """Sizes of one run. `model` is GPT-2's arm; its V is set from the text."""

    model: AblationConfig
    B: int
    steps: int
    val_windows: int
    lr: float
    timing: dict[str, Timing]
    uncached: Timing  # its train_pairs are not used


SMALL = GPTConfig.of_depth(4, V=65, T=512)
FOUR_MILLION = GPTConfig(V=65, T=512, C=256, L=5, H=8, H_kv=4)
LARGE = GPTConfig.of_depth(16, V=65, T=1024)

PRESETS = {
    "ci": Preset(
        AblationConfig(V=0, T=32, C=64, L=2, F=256),
        B=8,
        steps=60,
        val_windows=32,
        lr=1e-2,
        timing={"small": Timing(SMALL, 4, 64, 3, 32, 1)},
        uncached=Timing(SMALL, 1, 1, 0, 96, 1),
    ),
    "cpu": Preset(
        AblationConfig(V=0),
        B=16,
        steps=250,
        val_windows=256,
        lr=1e-2,
        timing={
            "0.7 M": Timing(SMALL, 16, 64, 41, 256, 7),
            "4 M": Timing(FOUR_MILLION, 8, 128, 15, 256, 5),
        },
        uncached=Timing(FOUR_MILLION, 1, 1, 0, 448, 1),
    ),
    "t4": Preset(
        AblationConfig(V=0, T=256, C=512, L=8, F=2048),
        B=32,
        steps=1500,
        val_windows=256,
        lr=5e-3,
        timing={"46 M": Timing(LARGE, 16, 256, 21, 256, 5)},
        uncached=Timing(LARGE, 1, 1, 0, 448, 3),
    ),
    "h200": Preset(
        AblationConfig(V=0, T=256, C=768, L=12, F=3072),
        B=64,
        steps=3000,
        val_windows=512,
        lr=5e-3,
        timing={"46 M": Timing(LARGE, 64, 256, 21, 256, 5)},
        uncached=Timing(LARGE, 1, 1, 0, 448, 3),
    ),
}


def run(preset: str, seed: int) -> dict:
    """All five parts as a JSON-able dict. Losses are nats a character.

    Raises ValueError for an unknown preset.
    """
    setup, text = preset_named(PRESETS, preset), load_text("tinyshakespeare")
    setup = replace(setup, model=replace(setup.model, V=text.tokenizer.vocab_size))
    return {
        "preset": preset,
        "seed": seed,
        "config": asdict(setup),
        "data": text.about,
        "bytes": bytes_at(2048),
        "speed": {n: beside_llama(t, seed) for n, t in setup.timing.items()},
        "cache": beside_uncached(setup.uncached, seed),
        **train_arms(setup, text, seed),
    }


# --- what each change brings, and how far positions reach --------------------------


def arms_of(setup: Preset) -> tuple[dict, dict]:
    """(steps, lengths): the configurations by name.

    Only learned positions cost parameters, so the others have tables for long texts.
    """
    steps = {
        name: arm if arm.position == "learned" else replace(arm, T=LONGER * arm.T)
        for name, arm in steps_from_gpt2(setup.model).items()
    }
    last = list(steps.values())[-1]
    kinds = ("learned", "none", "alibi")  # RoPE is the last of the steps
    return steps, {kind: replace(last, position=kind) for kind in kinds}


def train_arms(setup: Preset, text: Text, seed: int) -> dict:
    """Train every arm; the losses of each, and by position where it can read on."""
    steps, others = arms_of(setup)
    result = {"steps": {}, "lengths": {}}
    for name, config in steps.items():
        model = train_arm(
            config, setup, text, seed, result["steps"].setdefault(name, {})
        )
    T = setup.model.T
    result["lengths"]["RoPE"] = loss_by_position(model, setup, text)
    near = window_mask(LONGER * T, LONGER * T, T, next(model.parameters()).device)
    windowed = partial(model, mask=near)
    result["lengths"]["RoPE, window T"] = loss_by_position(windowed, setup, text)
    for name, config in others.items():
        model = train_arm(config, setup, text, seed, {})
        result["lengths"][name] = loss_by_position(model, setup, text)
    return result


def train_arm(
    config: AblationConfig, setup: Preset, text: Text, seed: int, record: dict
) -> AblationGPT:
    """One trained model. `record` gets its curve, its loss and its size."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    model = AblationGPT(config).to(device)
    trainer = make_trainer(model, setup, text.train, seed)
    losses = []
    fit(trainer, on_step=lambda step: losses.append(step.loss))
    val = Windows(text.val, setup.B, setup.model.T, device=device)
    each = max(1, setup.steps // 20)
    blocks = [losses[i : i + each] for i in range(0, len(losses), each)]
    record["train"] = [round(float(np.mean(block)), 4) for block in blocks]
    record["val"] = mean_loss(model, val.fixed(setup.val_windows))
    record["parameters"] = parameter_count(model)
    record["F"] = config.F
    return model


def make_trainer(model: AblationGPT, setup: Preset, tokens, seed: int) -> Trainer:
    """The book's recipe at the preset's size: Muon and AdamW, WSD."""
    device = str(next(model.parameters()).device)
    schedule = partial(
        wsd, total=setup.steps, warmup=10, decay=setup.steps // 2, floor=0.02
    )
    return Trainer(
        model,
        muon_and_adamw(model, setup.lr),
        Windows(tokens, setup.B, setup.model.T, seed, device),
        schedule=schedule,
        steps=setup.steps,
    )


@torch.no_grad()
def loss_by_position(model, setup: Preset, text: Text) -> dict:
    """Loss on windows of LONGER * T: in BUCKETS of positions, and up to each length.

    Nothing looks ahead, so the first n positions of a long window are a window of n.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    T = LONGER * setup.model.T
    source = Windows(text.val, setup.B, T, device=device)
    losses = []
    for inputs, targets in source.fixed(setup.val_windows):
        losses.append(next_token_loss(model(inputs), targets, "none"))
    mean = torch.cat(losses).mean(dim=0).cpu()  # (4 T,)
    return {
        "by_position": [round(x, 4) for x in mean.view(BUCKETS, -1).mean(1).tolist()],
        "at_length": {
            str(n): mean[: n * setup.model.T].mean().item() for n in (1, 2, LONGER)
        },
    }


# --- speed and bytes ---------------------------------------------------------------


def beside_llama(timing: Timing, seed: int) -> dict:
    """Training steps and greedy generation, ours and theirs in turns."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours, theirs = (m.to(device) for m in speed.same_weights(timing.model, seed))
    draw = torch.Generator().manual_seed(seed)
    prompt = torch.randint(timing.model.V, (1, 64), generator=draw).to(device)
    ours.eval(), theirs.eval()
    texts = [
        speed.greedy_ours(ours, prompt, timing.new),
        speed.greedy_theirs(theirs, prompt, timing.new),
    ]
    generated = speed.interleaved(
        lambda: speed.greedy_ours(ours, prompt, timing.new),
        lambda: speed.greedy_theirs(theirs, prompt, timing.new),
        timing.generate_pairs,
        warm_up=0,
    )
    shape = (timing.B, timing.T + 1)
    tokens = torch.randint(timing.model.V, shape, generator=draw).to(device)
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (ours, theirs)]
    trained = speed.interleaved(
        lambda: speed.training_step(ours.train(), optimizers[0], tokens),
        lambda: speed.training_step(theirs.train(), optimizers[1], tokens),
        timing.train_pairs,
        warm_up=2,
    )
    return {
        "parameters": parameter_count(ours),
        "equal_text": texts[0] == texts[1],
        "train": summary(trained, timing.B * timing.T),
        "generate": summary(generated, timing.new),
    }


def beside_uncached(timing: Timing, seed: int) -> dict:
    """Generation with the KV cache and without, the same tokens."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    model = GPT(timing.model).to(device).eval()
    prompt = torch.randint(timing.model.V, (1, 64), device=device)
    texts = {}
    pairs = speed.interleaved(
        lambda: texts.update(a=speed.greedy_ours(model, prompt, timing.new)),
        lambda: texts.update(b=speed.greedy_uncached(model, prompt, timing.new)),
        timing.generate_pairs,
        warm_up=0,
    )
    return {
        "parameters": parameter_count(model),
        "new": timing.new,
        "equal_text": texts["a"] == texts["b"],
        **summary(pairs, timing.new),
    }


def summary(pairs: speed.Pairs, tokens: int) -> dict:
    """Ratio (median of pairs), and each one's best tokens a second."""
    ours, theirs = (min(seconds) for seconds in zip(*pairs, strict=True))
    return {
        "ratio": speed.ratio(pairs),
        "pairs": [round(b / a, 4) for a, b in pairs],
        "ours_tokens_per_second": tokens / ours,
        "other_tokens_per_second": tokens / theirs,
    }


@torch.no_grad()
def bytes_at(T: int) -> list[dict]:
    """Caches that T tokens have filled: bytes in memory, and by the formula."""
    base = GPTConfig(V=65, T=T, C=256, L=4, H=8, H_kv=8)
    tokens, D, rows = torch.zeros(1, T, dtype=torch.long), base.D, []
    for name, changes in {
        "MHA, 8 heads": {},
        "GQA, 2 heads": {"H_kv": 2},
        "MQA, 1 head": {"H_kv": 1},
        "GQA, window 256 in 3 of 4 layers": {"H_kv": 2, "window": 256},
    }.items():
        config = replace(base, **changes)
        model = GPT(config)
        held = model.new_cache(B=1, T_max=T)
        model.hidden(tokens, cache=held)
        width = cache.kv_width(config.H_kv, D)
        windowed = (
            {"window": config.window, "global_layers": 1} if config.window else {}
        )
        formula = cache.cache_bytes(config.L, T, width, 1, 4, **windowed)
        rows.append(_bytes_row(name, cache.held_bytes(*held), formula))
    latent, rope = 4 * D, D // 2  # the proportions of DeepSeek-V2
    layers = [cache.LatentCache(1, T, latent, rope) for _ in range(base.L)]
    for layer in layers:
        layer.append(torch.zeros(1, T, latent), torch.zeros(1, T, rope))
    formula = cache.cache_bytes(base.L, T, cache.latent_width(latent, rope), 1, 4)
    rows.append(_bytes_row("MLA, latent 4 D", cache.held_bytes(*layers), formula))
    return rows


def _bytes_row(name: str, measured: int, formula: int) -> dict:
    return {"name": name, "measured": measured, "formula": formula}
