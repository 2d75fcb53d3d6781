"""The experiment of the chapter: how many bits does a character of Shakespeare cost?

`run(preset, seed)` reads tiny Shakespeare, holds out the last tenth, and scores every
model on all of that tenth, each target with its true context:

    ngrams       orders 1 ... n, add-one, add-k, interpolated, Kneser-Ney
    coverage     how much of the held-out text the tables of each order never saw
    entropy      Shannon's estimates, from the counts and from the guessing game
    leak         part of the held-out text was counted as well
    neural       a bigram matrix and MLPs of several contexts and widths
    starts       one MLP from three initialisations
    tokenizers   the same text under characters and byte-level BPE

The n-gram parts do not depend on the seed; the trained ones do.
Run it over seeds with `python -m ci.measure language_modeling cpu`.
"""

import math
import time
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from posttrain import data
from posttrain.foundations.language_model import parameter_count
from posttrain.foundations.language_modeling import (
    Score,
    sample,
    score,
    token_losses,
    windows,
)
from posttrain.foundations.language_modeling_entropy import (
    plug_in,
    ranks,
    shannon_bounds,
)
from posttrain.foundations.language_modeling_mlp import (
    MLP,
    START,
    Bigram,
    MLPConfig,
    TrainConfig,
    saturation,
    train,
)
from posttrain.foundations.language_modeling_ngram import (
    NGram,
    Table,
    add_k,
    codes,
    continuation,
    count,
    interpolated,
    kneser_ney,
)
from posttrain.foundations.tokenization import bpe_tokenizer, char_tokenizer
from posttrain.presets import preset_named

VERSION = 1

KS = (1.0, 0.1, 0.01, 0.001)  # tried for add-k
ALPHAS = (1.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # tried for interpolation
LEAKS = (0.0, 0.1, 0.25, 0.5, 1.0)
PROMPT = "ROMEO:\nI "
GUESSES = 20_000  # targets of the guessing game
KEEP = 20  # loss is kept for each of the first steps, then as a mean of 20


@dataclass(frozen=True)
class Preset:
    """Sizes of one run; V is set from the text. arms: k, D, H of each MLP."""

    order: int
    arms: tuple[tuple[int, int, int], ...]
    train: TrainConfig
    start_steps: int
    start_k: int
    vocabularies: tuple[int, ...]
    characters: int | None = None  # of the corpus; None: all
    sample: int = 120


PRESETS = {
    "ci": Preset(
        order=4,
        arms=((1, 16, 32), (3, 16, 32)),
        train=TrainConfig(steps=100, B=128, lr=1e-2, points=2),
        start_steps=60,
        start_k=3,
        vocabularies=(320,),
        characters=120_000,
        sample=40,
    ),
    "cpu": Preset(
        order=8,
        arms=((1, 16, 128), (3, 16, 128), (8, 16, 32), (8, 16, 128), (8, 16, 384)),
        train=TrainConfig(steps=4000, B=256, lr=5e-3, points=10),
        start_steps=800,
        start_k=3,
        vocabularies=(512, 1024),
    ),
    "t4": Preset(
        order=9,
        arms=((1, 32, 512), (3, 32, 512), (8, 32, 512), (16, 32, 512), (16, 32, 2048)),
        train=TrainConfig(steps=20_000, B=1024, lr=3e-3, points=20),
        start_steps=2000,
        start_k=3,
        vocabularies=(512, 1024, 2048, 4096),
        sample=400,
    ),
    "h200": Preset(
        order=9,
        arms=((1, 64, 1024), (3, 64, 1024), (8, 64, 1024), (16, 64, 4096)),
        train=TrainConfig(steps=40_000, B=4096, lr=3e-3, points=20),
        start_steps=2000,
        start_k=3,
        vocabularies=(512, 1024, 2048, 4096, 8192),
        sample=400,
    ),
}


@dataclass(frozen=True)
class Split:
    """A text as tokens, the first nine tenths for training."""

    V: int
    train: Tensor  # (N,)
    val: Tensor  # (M,)
    val_text: str

    def rows(self, k: int) -> Tensor:
        """Windows (M, k + 1) whose targets are all of val, in order.

        The first contexts reach back into the end of train, as they would when the text
        is read on; no target is in train.
        """
        return windows(torch.cat([self.train[len(self.train) - k :], self.val]), k)


def run(preset: str, seed: int) -> dict:
    """Measure everything; return a JSON-able dict. Raises ValueError for an unknown
    preset."""
    setup, corpus = preset_named(PRESETS, preset), data.load("tinyshakespeare")
    text = corpus.text[: setup.characters]
    chars = char_tokenizer(text, specials=())
    split = cut(text, chars)
    tables = count(split.train, setup.order, split.V)
    models: dict[str, nn.Module] = {}
    started = time.perf_counter()
    neural = train_all(setup, split, seed, models)
    best = min(neural, key=lambda name: neural[name]["val"])
    order = min(6, setup.order)
    counted = NGram([*continuation(tables)[: order - 1], tables[order - 1]])
    return {
        "preset": preset,
        "seed": seed,
        "config": asdict(setup),
        "data": {
            "name": corpus.name,
            "source": corpus.source,
            "sha256": corpus.sha256,
            "V": split.V,
            "train_characters": len(split.train),
            "val_characters": len(split.val),
            "val_bytes": len(split.val_text.encode()),
        },
        "ngrams": ngrams(tables, split),
        "coverage": [coverage(table, split) for table in tables],
        "entropy": {
            "train": rounded(plug_in(tables)),
            "guessing": {
                best: guessing(models[best], split),
                f"{order}-gram": guessing(counted, split),
            },
        },
        "leak": leak(setup, split),
        "neural": neural,
        "starts": {name: run_start(name, setup, split, seed) for name in START},
        "tokenizers": tokenizers(setup, text, seed),
        "samples": samples(setup, tables, models, chars, seed),
        "seconds": round(time.perf_counter() - started, 2),
    }


def cut(text: str, tokenizer) -> Split:
    """The last tenth of the characters is held out: one piece, no shuffling."""
    at = len(text) * 9 // 10
    first, last = (torch.tensor(tokenizer.encode(t)) for t in (text[:at], text[at:]))
    return Split(tokenizer.vocab_size, first, last, text[at:])


def bits(p: Tensor, split: Split) -> float | None:
    """Bits a character of probabilities (M,) of all held-out targets.

    None where one of them is 0: then the loss is infinite, which JSON cannot say.
    """
    if (p == 0).any():
        return None
    return round(Score.of(-p.log(), split.val_text).bits_per_character, 4)


def ngrams(tables: list[Table], split: Split) -> list[dict]:
    """Each order under each smoothing; strengths chosen on the end of train."""
    dev = Split(split.V, *split.train.split(len(split.train) * 9 // 10), "")
    tried = count(dev.train, len(tables), split.V)
    lower = continuation(tables)
    found = []
    for table in tables:
        n, seen, rows = table.n, split.rows(table.n - 1), dev.rows(table.n - 1)
        k = min(KS, key=lambda k: -add_k(tried[n - 1], rows, k).log().sum())
        alpha = min(ALPHAS, key=lambda a: -interpolated(tried[:n], rows, a).log().sum())
        counts = [*lower[: n - 1], table]
        found.append(
            {
                "n": n,
                "counts": bits(add_k(table, seen, 0.0), split),
                "add_one": bits(add_k(table, seen, 1.0), split),
                "add_k": bits(add_k(table, seen, k), split),
                "k": k,
                "interpolated": bits(interpolated(tables[:n], seen, alpha), split),
                "alpha": alpha,
                "kneser_ney": bits(kneser_ney(counts, seen), split),
                "on_train": on_train(tables, counts, n, split),
            }
        )
    return found


def on_train(tables, counts, n: int, split: Split) -> float:
    """Bits a character of Kneser-Ney on the text that it was counted on: the fault."""
    rows = windows(split.train, n - 1)[: len(split.val)]
    p = kneser_ney(counts, rows)
    return round(-p.log2().mean().item(), 4)


def coverage(table: Table, split: Split) -> dict:
    """What the table of one order holds, and what of val it has not seen."""
    code = codes(split.rows(table.n - 1), split.V)
    return {
        "n": table.n,
        "possible": split.V**table.n,
        "seen": len(table.grams),
        "once": round((table.counts == 1).double().mean().item(), 4),
        "new_grams": round((table.count(code) == 0).double().mean().item(), 4),
        "new_contexts": round((table.total(code) == 0).double().mean().item(), 4),
    }


@torch.no_grad()
def guessing(model: NGram | nn.Module, split: Split) -> dict:
    """Shannon's game on the first GUESSES targets of val, and what the model pays."""
    rows = split.rows(model.k)[:GUESSES].to(place_of(model))
    found, paid = [], []
    for part in rows.split(1024):
        logits = model(part[:, :-1])
        found.append(ranks(logits, part[:, -1]).cpu())
        paid.append(token_losses(logits, part[:, -1]).cpu())
    guesses = torch.cat(found)
    lower, upper = shannon_bounds(guesses, split.V)
    share = [(guesses == i).double().mean().item() for i in range(1, 6)]
    text = split.val_text[: len(rows)]
    return {
        "guesses": len(rows),
        "lower": round(lower, 4),
        "upper": round(upper, 4),
        "paid": round(Score.of(torch.cat(paid), text).bits_per_character, 4),
        "share": rounded(share),
    }


def leak(setup: Preset, split: Split) -> list[dict]:
    """A share of the held-out text is counted as well: what the score becomes."""
    found = []
    for share in LEAKS:
        copied = split.val[: round(share * len(split.val))]
        counted = torch.cat([split.train, copied])
        tables = continuation(count(counted, setup.order, split.V))
        paid = bits(kneser_ney(tables, split.rows(setup.order - 1)), split)
        found.append({"share": share, "bits": paid})
    return found


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def place_of(model: NGram | nn.Module) -> torch.device:
    """Where a network has its weights; tables of counts are on the CPU."""
    if isinstance(model, nn.Module):
        return next(model.parameters()).device
    return torch.device("cpu")


def build(config: MLPConfig, seed: int) -> MLP:
    """The untrained MLP."""
    torch.manual_seed(seed)
    return MLP(config)


def fit(model: nn.Module, split: Split, config: TrainConfig, seed: int) -> dict:
    """Train; measure on a quarter of val on the way and on all of it at last."""
    rows = split.rows(model.k)
    few = rows[: len(rows) // 4]
    text = split.val_text[: len(few)]
    place = device()
    model.to(place)

    def part(model: nn.Module) -> float:
        return score(model, few.to(place), text).bits_per_character

    order = torch.Generator().manual_seed(seed)
    curve = train(model, split.train, config, order, part)
    begin = windows(split.train, model.k)[: len(rows)].to(place)
    said = score(model, begin, "?" * len(begin))  # bits a token: one character each
    paid = score(model, rows.to(place), split.val_text)
    return {
        "parameters": parameter_count(model),
        "curve": {"step": curve["step"], "val": rounded(curve["val"])},
        "loss": curve["loss"],
        "train": round(said.bits_per_character, 4),
        "val": round(paid.bits_per_character, 4),
    }


def train_all(setup: Preset, split: Split, seed: int, models: dict) -> dict:
    """The bigram matrix and every MLP; the trained models go into `models`."""
    torch.manual_seed(seed)
    models["bigram"] = Bigram(split.V)
    rate = replace(setup.train, lr=0.1, weight_decay=0.0)
    found = {"bigram": fit(models["bigram"], split, rate, seed)}
    for k, D, H in setup.arms:
        name = f"k={k}, H={H}"
        models[name] = build(MLPConfig(split.V, k, D, H), seed)
        found[name] = {"k": k, "D": D, "H": H}
        found[name] |= fit(models[name], split, setup.train, seed)
    for result in found.values():
        del result["loss"]
    return found


def run_start(name: str, setup: Preset, split: Split, seed: int) -> dict:
    """The same MLP, batches and steps from another start."""
    k, D, H = next(arm for arm in setup.arms if arm[0] == setup.start_k)
    model = build(MLPConfig(split.V, k, D, H, start=name), seed).to(device())
    contexts = split.rows(k)[:2000, :-1].to(device())
    before = saturation(model, contexts)
    result = fit(model, split, replace(setup.train, steps=setup.start_steps), seed)
    losses = result.pop("loss")
    later = [
        sum(losses[i : i + KEEP]) / KEEP
        for i in range(KEEP, len(losses) - KEEP + 1, KEEP)
    ]
    return {
        **result,
        "uniform": round(math.log(split.V), 4),
        "first_losses": rounded(losses[:KEEP]),
        "later_losses": rounded(later),
        "before": {key: round(value, 4) for key, value in before.items()},
        "after": {
            key: round(value, 4) for key, value in saturation(model, contexts).items()
        },
    }


def tokenizers(setup: Preset, text: str, seed: int) -> dict:
    """The same held-out text, cut into characters and into BPE tokens.

    Two models each: Kneser-Ney of order 3, and an MLP with the same k, D, H and steps.
    """
    at = len(text) * 9 // 10
    cuts = {"characters": char_tokenizer(text, specials=())}
    for size in setup.vocabularies:
        documents = text[:at].split("\n\n")
        cuts[f"BPE {size}"] = bpe_tokenizer(documents, size, specials=())
    k, D, H = next(arm for arm in setup.arms if arm[0] == setup.start_k)
    found = {}
    for name, tokenizer in cuts.items():
        split = cut(text, tokenizer)
        tables = continuation(count(split.train, 3, split.V))
        p = kneser_ney(tables, split.rows(2))
        model = build(MLPConfig(split.V, k, D, H), seed).to(device())
        order = torch.Generator().manual_seed(seed)
        train(model, split.train, replace(setup.train, steps=setup.start_steps), order)
        rows = split.rows(k).to(device())
        found[name] = {
            "V": split.V,
            "bytes_per_token": round(len(split.val_text.encode()) / len(split.val), 4),
            "trigram": units(Score.of(-p.log(), split.val_text)),
            "mlp": units(score(model, rows, split.val_text)),
        }
    return found


def units(paid: Score) -> dict:
    """One total in each unit."""
    return {
        "nats_per_token": round(paid.nats_per_token, 4),
        "perplexity": round(paid.perplexity, 3),
        "bits_per_byte": round(paid.bits_per_byte, 4),
    }


def samples(setup: Preset, tables, models: dict, chars, seed: int) -> dict:
    """The same prompt, continued by each kind of model."""
    lower = continuation(tables)
    known = set(chars.model.ids)
    prompt = torch.tensor(chars.encode("".join(c for c in PROMPT if c in known)))
    found = {"prompt": chars.decode(prompt)}
    ways = {
        f"{n}-gram": (n - 1, NGram([*lower[: n - 1], tables[n - 1]])) for n in (1, 2)
    }
    n = min(5, setup.order)
    ways[f"{n}-gram"] = (n - 1, NGram([*lower[: n - 1], tables[n - 1]]))
    for name, model in models.items():
        ways[name] = (model.k, model.to("cpu"))
    for name, (k, model) in ways.items():
        draw = torch.Generator().manual_seed(seed)
        tokens = sample(model, prompt, setup.sample, k, draw)
        found[name] = chars.decode(tokens[len(prompt) :])
    return found


def rounded(values: list[float], digits: int = 4) -> list[float]:
    """Short numbers for the result file."""
    return [round(value, digits) for value in values]
