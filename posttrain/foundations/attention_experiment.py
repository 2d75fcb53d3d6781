"""The experiment of the chapter: what does looking back by content buy?

Five models read the same characters in the same order, at equal parameters:

    none      each position sees only itself
    uniform   each position takes the plain mean of its past
    single    attention with one head
    multi     attention with several heads
    leaky     several heads and a planted fault: the mask shows one token too many

`run(preset, seed)` trains all five and returns curves, losses, samples, the attention
maps of `multi` on one sentence, and how saturated a fresh softmax is with and without
the 1/√d. Run it over seeds with `python -m ci.measure attention cpu`.
"""

import time
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from posttrain import data
from posttrain.foundations.attention import causal_mask, scaled_dot_product_attention
from posttrain.foundations.attention_lm import (
    MASKS,
    CharLM,
    LMConfig,
    TrainConfig,
    evaluate,
    generate,
    sample_windows,
    train,
)
from posttrain.presets import preset_named

VERSION = 1

DIMS = (4, 16, 64, 256, 1024)  # head sizes for the look at a fresh softmax
PROMPT = 16  # characters of validation text that each sample continues
MAP = 48  # characters of the attention map
NEAR = 8  # distances 0 ... NEAR - 1 that `reach` reports


@dataclass(frozen=True)
class Arm:
    """One of the compared models. H None: the preset's number of heads."""

    mixer: str = "attention"
    mask: str = "causal"
    H: int | None = None


ARMS = {
    "none": Arm(mixer="average", mask="self"),
    "uniform": Arm(mixer="average"),
    "single": Arm(H=1),
    "multi": Arm(),
    "leaky": Arm(mask="leaky"),
}


@dataclass(frozen=True)
class Preset:
    """Sizes of one run. `model.V` is set from the text."""

    model: LMConfig
    train: TrainConfig
    val_windows: int
    sample: int  # characters to draw from each model


PRESETS = {
    "ci": Preset(
        LMConfig(V=0, T=32, C=48),
        TrainConfig(steps=200, B=16, lr=8e-3, log_every=40),
        val_windows=48,
        sample=48,
    ),
    "cpu": Preset(
        LMConfig(V=0, T=64, C=128),
        TrainConfig(steps=800, B=16, lr=4e-3, log_every=50),
        val_windows=192,
        sample=160,
    ),
    "t4": Preset(
        LMConfig(V=0, T=128, C=256, H=8, L=4, dropout=0.1),
        TrainConfig(steps=2000, B=64, lr=2e-3, log_every=100),
        val_windows=512,
        sample=400,
    ),
    "h200": Preset(
        LMConfig(V=0, T=256, C=384, H=6, L=6, dropout=0.2),
        TrainConfig(steps=5000, B=64, lr=1e-3, log_every=250),
        val_windows=1024,
        sample=400,
    ),
}


@dataclass(frozen=True)
class Text:
    """A corpus as numbers: train and val tokens, and the characters they stand for."""

    chars: list[str]
    train: Tensor  # (N,)
    val: Tensor  # (M,)

    def decode(self, tokens: Tensor) -> str:
        """The characters of tokens (T,)."""
        return "".join(self.chars[i] for i in tokens.tolist())


def run(preset: str, seed: int) -> dict:
    """Train every arm; return a JSON-able dict. Losses are nats a character.

    Raises ValueError for an unknown preset.
    """
    setup = preset_named(PRESETS, preset)
    corpus = data.load("tinyshakespeare")
    text = encode(corpus.text)
    setup = replace(setup, model=replace(setup.model, V=len(text.chars)))
    return {
        "preset": preset,
        "seed": seed,
        "config": {"model": asdict(setup.model), "train": asdict(setup.train)},
        "data": {
            "name": corpus.name,
            "source": corpus.source,
            "sha256": corpus.sha256,
            "train_characters": len(text.train),
            "val_characters": len(text.val),
        },
        "arms": {name: run_arm(name, setup, text, seed) for name in ARMS},
        "softmax": {
            name: [softmax_at_init(d, scale, seed) for d in DIMS]
            for name, scale in (("scaled", None), ("unscaled", 1.0))
        },
    }


def encode(text: str) -> Text:
    """Number the characters; the first nine tenths are for training."""
    chars = sorted(set(text))
    number = {char: i for i, char in enumerate(chars)}
    tokens = torch.tensor([number[char] for char in text])
    cut = len(tokens) * 9 // 10
    return Text(chars, tokens[:cut], tokens[cut:])


def build(name: str, setup: Preset, seed: int) -> CharLM:
    """The untrained model of an arm; equal shapes start from equal numbers."""
    arm = ARMS[name]
    torch.manual_seed(seed)
    return CharLM(replace(setup.model, mixer=arm.mixer, H=arm.H or setup.model.H))


def run_arm(name: str, setup: Preset, text: Text, seed: int) -> dict:
    """Train one arm and measure it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    T, start = setup.model.T, time.perf_counter()
    model = build(name, setup, seed).to(device)
    make_mask = MASKS[ARMS[name].mask]
    mask = make_mask(T).to(device)
    fixed = torch.Generator().manual_seed(0)  # the same windows for every arm and seed
    val = sample_windows(text.val, setup.val_windows, T, fixed).to(device)
    order = torch.Generator().manual_seed(seed)
    curve = train(model, text.train, val, mask, setup.train, order)
    prompt, draw = text.val[:PROMPT], torch.Generator().manual_seed(seed)
    sample = generate(model, prompt, setup.sample, make_mask, draw)
    result = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "curve": {key: rounded(values) for key, values in curve.items()},
        "train": round(curve["train"][-1], 4),
        "val": round(curve["val"][-1], 4),
        "val_by_position": rounded(evaluate(model, val, mask).tolist()),
        "sample": text.decode(sample[PROMPT:]),
        "prompt": text.decode(prompt),
    }
    if name == "leaky":
        honest = causal_mask(T, device=device)
        result["val_causal_mask"] = round(evaluate(model, val, honest).mean().item(), 4)
    if name == "multi":
        result["maps"] = attention_maps(model, text)
        result["reach"] = reach(model, val[:64, :-1])
    return {**result, "seconds": round(time.perf_counter() - start, 2)}


@torch.no_grad()
def attention_maps(model: CharLM, text: Text) -> dict:
    """Where each head looks in the first paragraph that begins in the validation text.

    Returns {"tokens": at most MAP characters, "percent": [L][H] packed strings}: whole
    per cents, one row a query, of each row only the past. `unpack` reads them.
    """
    model.eval()
    beginning = text.decode(text.val[:1000])
    start = beginning.index("\n\n") + 2 if "\n\n" in beginning else 0
    tokens = text.val[start : start + min(MAP, model.config.T)]
    device = model.token.weight.device
    mask = causal_mask(len(tokens), device=device)
    _, maps = model(tokens[None].to(device), mask)  # L times (1, H, T, T)
    packed = [[pack(head) for head in weights[0].tolist()] for weights in maps]
    return {"tokens": text.decode(tokens), "percent": packed}


def pack(rows: list[list[float]]) -> str:
    """A causal map (T, T) as text: whole per cents, rows cut at the diagonal."""
    return ";".join(
        " ".join(str(round(100 * w)) for w in row[: t + 1])
        for t, row in enumerate(rows)
    )


def unpack(maps: dict) -> tuple[list[str], list]:
    """The tokens and weights [L][H][T][t + 1] of `attention_maps`."""
    weights = [
        [
            [[int(w) / 100 for w in row.split()] for row in head.split(";")]
            for head in heads
        ]
        for heads in maps["percent"]
    ]
    return list(maps["tokens"]), weights


@torch.no_grad()
def reach(model: CharLM, tokens: Tensor) -> list[list[list[float]]]:
    """Mean weight that each head gives to a distance, on tokens (B, T).

    Returns [L][H][NEAR + 1]: distances 0 ... NEAR - 1, then all that is further back,
    averaged over the queries that have at least NEAR tokens behind them.
    """
    model.eval()
    T = tokens.shape[1]
    _, maps = model(tokens, causal_mask(T, device=tokens.device))
    result = []
    for weights in maps:  # (B, H, T, T)
        near = [weights.diagonal(-i, 2, 3)[..., NEAR - i :] for i in range(NEAR)]
        means = torch.stack([w.mean(dim=(0, 2)) for w in near], dim=-1)  # (H, NEAR)
        rest = 1 - means.sum(dim=-1, keepdim=True)  # (H, 1)
        result.append([rounded(r, 3) for r in torch.cat([means, rest], -1).tolist()])
    return result


def softmax_at_init(
    d: int, scale: float | None, seed: int, n_keys: int = 64, n_queries: int = 1024
) -> dict[str, float]:
    """How a softmax over n_keys scores behaves when q and k are fresh N(0, 1) numbers.

    Returns, over the queries: the standard deviation of the scores, the mean largest
    weight, the median and mean of `room` (1 - Σ w², the trace of the softmax's
    Jacobian: 0 when one key has all the weight, and then no score gets a gradient), the
    share of queries with room < 0.01, and median and mean length of the gradient at the
    query under a random linear loss.
    """
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(n_queries, d, generator=generator, requires_grad=True)
    k = torch.randn(n_keys, d, generator=generator)
    v = torch.randn(n_keys, d, generator=generator)
    direction = torch.randn(n_queries, d, generator=generator) / d**0.5
    output, weights = scaled_dot_product_attention(q, k, v, scale=scale)
    (output * direction).sum().backward()
    lengths = q.grad.norm(dim=-1)  # (n_queries,)
    room = 1 - weights.detach().square().sum(dim=-1)  # (n_queries,)
    scores = (q @ k.T).detach() * (d**-0.5 if scale is None else scale)
    numbers = {
        "score_std": scores.std(),
        "top_weight": weights.detach().amax(dim=-1).mean(),
        "room_median": room.median(),
        "room_mean": room.mean(),
        "dead": (room < 0.01).float().mean(),
        "gradient_median": lengths.median(),
        "gradient_mean": lengths.mean(),
    }
    return {"d": d, **{key: float(f"{x.item():.4g}") for key, x in numbers.items()}}


def rounded(values: list[float], digits: int = 4) -> list[float]:
    """Short numbers for the result file."""
    return [round(value, digits) for value in values]
