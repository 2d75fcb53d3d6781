"""The smallest language model that shows what attention is for, and its training.

Characters in, the next character out. Two kinds of mixer, at equal parameters:
`MultiHeadAttention`, where content decides who looks where, and `Average`, where each
position takes the plain mean of what its mask lets it see. The mask is an argument of
every call, so one model can be asked under two masks.

Not covered here: weight tying, initialisation by depth, generation with a cache.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.foundations.attention import MultiHeadAttention, causal_mask


@dataclass(frozen=True)
class LMConfig:
    """Shape of the model. V characters, T positions, C channels, H heads, L layers."""

    V: int
    T: int = 64
    C: int = 128
    H: int = 4
    L: int = 2
    mixer: str = "attention"  # or "average"
    dropout: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """One training run: AdamW, linear warm-up, cosine down to a tenth."""

    steps: int = 800
    B: int = 32
    lr: float = 3e-3
    warmup: float = 0.05  # share of the steps
    weight_decay: float = 0.1
    log_every: int = 50


class Average(nn.Module):
    """Attention without q and k: every visible position gets the same weight."""

    def __init__(self, C: int):
        super().__init__()
        self.v_proj = nn.Linear(C, C, bias=False)
        self.out_proj = nn.Linear(C, C, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, T, C), mask: boolean (T, T). Returns (B, T, C) and weights (T, T)."""
        weights = mask.to(x.dtype)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return self.out_proj(weights @ self.v_proj(x)), weights


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)): positions talk, then each one thinks.

    `Average` has no q and k matrices; its MLP is C wider, which makes the two kinds of
    block equal in parameters (2 C² moved from one place to the other).
    """

    def __init__(self, config: LMConfig):
        super().__init__()
        C, attends = config.C, config.mixer == "attention"
        hidden = 4 * C if attends else 5 * C
        self.norm_1 = nn.LayerNorm(C)
        self.mixer = MultiHeadAttention(C, config.H) if attends else Average(C)
        self.norm_2 = nn.LayerNorm(C)
        self.mlp = nn.Sequential(
            nn.Linear(C, hidden, bias=False),
            nn.GELU(),
            nn.Linear(hidden, C, bias=False),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        y, weights = self.mixer(self.norm_1(x), mask=mask)
        x = x + self.dropout(y)
        return x + self.dropout(self.mlp(self.norm_2(x))), weights


class CharLM(nn.Module):
    """Token + position embedding, L blocks, a linear read-out."""

    def __init__(self, config: LMConfig):
        super().__init__()
        if config.mixer not in ("attention", "average"):
            raise ValueError(f"mixer={config.mixer!r}: use 'attention' or 'average'")
        self.config = config
        self.token = nn.Embedding(config.V, config.C)
        self.position = nn.Embedding(config.T, config.C)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.L))
        self.norm = nn.LayerNorm(config.C)
        self.head = nn.Linear(config.C, config.V, bias=False)
        nn.init.normal_(self.token.weight, std=0.3)
        nn.init.normal_(self.position.weight, std=0.3)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """tokens: (B, T), mask: boolean (T, T).

        Returns the logits (B, T, V) and each layer's attention weights.
        """
        T = tokens.shape[1]
        positions = torch.arange(T, device=tokens.device)
        x = self.token(tokens) + self.position(positions)  # (B, T, C)
        maps = []
        for block in self.blocks:
            x, weights = block(x, mask)
            maps.append(weights)
        return self.head(self.norm(x)), maps


def sees_itself(T: int) -> Tensor:
    """No attention at all: each position sees only itself. Boolean (T, T)."""
    return torch.eye(T, dtype=torch.bool)


def leaky_mask(T: int) -> Tensor:
    """The planted fault: one diagonal too many, so position t also sees t + 1."""
    return torch.ones(T, T, dtype=torch.bool).tril(diagonal=1)


MASKS: dict[str, Callable[[int], Tensor]] = {
    "self": sees_itself,
    "causal": causal_mask,
    "leaky": leaky_mask,
}


def token_losses(model: CharLM, windows: Tensor, mask: Tensor) -> Tensor:
    """Next-character cross-entropy (nats) of windows (B, T + 1): (B, T)."""
    logits, _ = model(windows[:, :-1], mask)  # (B, T, V)
    return F.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none")


def sample_windows(data: Tensor, B: int, T: int, generator: torch.Generator) -> Tensor:
    """B random windows of T + 1 tokens from a long sequence (N,): (B, T + 1)."""
    if len(data) < T + 2:
        raise ValueError(f"the text has {len(data)} tokens, a window needs {T + 2}")
    starts = torch.randint(len(data) - T - 1, (B, 1), generator=generator)
    return data[starts + torch.arange(T + 1)]


@torch.no_grad()
def evaluate(model: CharLM, windows: Tensor, mask: Tensor, B: int = 64) -> Tensor:
    """Mean loss (nats a character) at each position, over windows (N, T + 1): (T,)."""
    model.eval()
    chunks = [token_losses(model, chunk, mask) for chunk in windows.split(B)]
    model.train()
    return torch.cat(chunks).mean(dim=0)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine from lr to lr / 10."""
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    return config.lr * (0.55 + 0.45 * math.cos(math.pi * progress))


def training_step(
    model: CharLM, optimizer: torch.optim.Optimizer, windows: Tensor, mask: Tensor
) -> Tensor:
    """One step on windows (B, T + 1). Returns the loss before the step."""
    loss = token_losses(model, windows, mask).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def make_optimizer(model: CharLM, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; only matrices decay, norms do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99), fused=True)


def train(
    model: CharLM,
    data: Tensor,
    val_windows: Tensor,
    mask: Tensor,
    config: TrainConfig,
    generator: torch.Generator,
) -> dict[str, list[float]]:
    """Train on random windows of data (N,); measure on val_windows (M, T + 1).

    Returns the curve: step, train (mean loss since the last point) and val, in nats.
    """
    model.train()
    optimizer = make_optimizer(model, config)
    device, T = mask.device, model.config.T
    curve, since = {"step": [], "train": [], "val": []}, []
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        windows = sample_windows(data, config.B, T, generator).to(device)
        since.append(training_step(model, optimizer, windows, mask))
        if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
            curve["step"].append(step + 1)
            curve["train"].append(torch.stack(since).mean().item())
            curve["val"].append(evaluate(model, val_windows, mask).mean().item())
            since = []
    return curve


@torch.no_grad()
def generate(
    model: CharLM,
    prompt: Tensor,
    n: int,
    make_mask: Callable[[int], Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Draw n more tokens after prompt (T_p,), one by one, at temperature 1.

    Each draw reads the last T - 1 tokens anew: a position that had a follower in every
    training window, so a mask that leaks has no answer to copy. `make_mask(T)` is the
    mask that the model is asked under. Returns (T_p + n,) on the CPU.
    """
    model.eval()
    device = model.token.weight.device
    tokens = prompt.clone()
    for _ in range(n):
        seen = tokens[-(model.config.T - 1) :]  # (at most T - 1,)
        mask = make_mask(len(seen)).to(device)
        logits, _ = model(seen[None].to(device), mask)  # (1, T, V)
        probs = logits[0, -1].softmax(dim=-1).cpu()  # (V,)
        tokens = torch.cat([tokens, torch.multinomial(probs, 1, generator=generator)])
    model.train()
    return tokens
