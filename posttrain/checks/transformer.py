"""Checks of the exercise `transformer`.

References: PyTorch's own layer_norm and gelu, its `nn.TransformerEncoderLayer` with the
same weights (pre_norm_block, gpt2_logits), a loop over `math.sin` (sinusoids), the
backward pass by hand (tied_logits), the shapes of all tensors one by one
(parameter_count). `initialise` is judged by the statistics of the weights that it
leaves: 65,536 normal numbers have a deviation that is right to 0.3 % (one standard
error), a mean within 0.4 % of the deviation, and a share inside one deviation within
0.2 %. The tolerance is 2 %: five errors and more.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from posttrain.checks.draws import whole
from posttrain.checks.mistakes.transformer import MISTAKES
from posttrain.checks.task import TOLERANCE, Task


def draw(rng, *shape, size=1.0):
    """Random float64 numbers."""
    return size * torch.randn(shape, generator=rng, dtype=torch.float64)


# ---------------------------------------------------------------- layer_norm


def norm_cases(rng, hidden):
    """(x, gain, bias, eps, upstream): upstream is the gradient at the output."""

    def case(*shape, eps=1e-5, offset=0.0, size=1.0, dtype=torch.float64):
        x = draw(rng, *shape, size=size) + offset
        gain, bias, up = (draw(rng, *s) for s in (shape[-1:], shape[-1:], shape))
        return x.to(dtype), gain.to(dtype), bias.to(dtype), eps, up.to(dtype)

    yield case(2)
    yield case(1, 3, eps=0.5)
    yield case(2, 4, size=0.0, offset=5.0)  # all equal: only eps is under the root
    yield case(3, 4, offset=1e5)  # E[x^2] - E[x]^2 loses all digits here
    yield case(2, 3, 6, dtype=torch.float32)
    for _ in range(3 if hidden else 1):
        yield case(2, whole(rng, 1, 4), whole(rng, 2, 9), eps=0.01, size=2.0)


def drive_norm(answer, x, gain, bias, eps, upstream):
    x = x.clone().requires_grad_()
    y = answer(x, gain, bias, eps)
    y.backward(upstream)
    return {"output": y.detach(), "gradient at x": x.grad}


def reference_norm(x, gain, bias, eps, upstream):
    x = x.clone().requires_grad_()
    y = F.layer_norm(x, x.shape[-1:], gain, bias, eps)
    y.backward(upstream)
    return {"output": y.detach(), "gradient at x": x.grad}


# ---------------------------------------------------------------- gelu


def gelu_cases(rng, hidden):
    yield (torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64),)
    yield (torch.tensor([3.0, -3.0, 30.0, -30.0]),)
    yield (torch.linspace(-6, 6, 25, dtype=torch.float64),)
    yield (draw(rng, 2, 3).float(),)
    for _ in range(2 if hidden else 1):
        yield (draw(rng, 2, whole(rng, 1, 5), size=2.0),)


def drive_gelu(answer, x):
    before = x.clone()
    return {"output": answer(x), "x unchanged": before.equal(x)}


def reference_gelu(x):
    return {"output": F.gelu(x, approximate="tanh"), "x unchanged": True}


# ---------------------------------------------------------------- sinusoids


def sinusoid_cases(rng, hidden):
    yield 1, 2
    yield 2, 2
    yield 3, 4
    yield 40, 6
    for _ in range(3 if hidden else 1):
        yield whole(rng, 2, 40), 2 * whole(rng, 2, 9)


def drive_sinusoids(answer, T, C):
    return answer(T, C)


def reference_sinusoids(T, C):
    """One number at a time."""
    rows = []
    for t in range(T):
        angles = [t / 10_000 ** (2 * i / C) for i in range(C // 2)]
        rows.append([f(angle) for angle in angles for f in (math.sin, math.cos)])
    return torch.tensor(rows)


# ---------------------------------------------------------------- pre_norm_block


def block_weights(rng, C):
    """Weights under the names of `nn.TransformerEncoderLayer`."""
    shapes = {
        "self_attn.in_proj_weight": (3 * C, C),
        "self_attn.in_proj_bias": (3 * C,),
        "self_attn.out_proj.weight": (C, C),
        "self_attn.out_proj.bias": (C,),
        "linear1.weight": (4 * C, C),
        "linear1.bias": (4 * C,),
        "linear2.weight": (C, 4 * C),
        "linear2.bias": (C,),
    }
    weights = {name: draw(rng, *shape, size=0.5) for name, shape in shapes.items()}
    for name in ("norm1", "norm2"):
        weights[f"{name}.weight"] = 1 + draw(rng, C, size=0.3)
        weights[f"{name}.bias"] = draw(rng, C, size=0.3)
    return weights


def block_cases(rng, hidden):
    """(x, weights, upstream)"""
    for B, T, C in [(1, 1, 2), (1, 3, 4), (2, 4, 4)] + [(2, 5, 6)] * (2 * hidden):
        yield draw(rng, B, T, C), block_weights(rng, C), draw(rng, B, T, C)


def drive_block(answer, x, weights, upstream):
    """Makes the four parts; the output and the gradient at the input."""
    import torch
    from torch import nn

    C = x.shape[-1]

    def load(part, prefix):
        state = {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
        part.load_state_dict(state)
        return part

    heads = load(
        nn.MultiheadAttention(C, 2, batch_first=True, dtype=torch.float64),
        "self_attn.",
    )
    up = load(nn.Linear(C, 4 * C, dtype=torch.float64), "linear1.")
    down = load(nn.Linear(4 * C, C, dtype=torch.float64), "linear2.")
    x = x.clone().requires_grad_()
    y = answer(
        x,
        load(nn.LayerNorm(C, dtype=torch.float64), "norm1."),
        lambda z: heads(z, z, z, need_weights=False)[0],
        load(nn.LayerNorm(C, dtype=torch.float64), "norm2."),
        lambda z: down(torch.nn.functional.gelu(up(z))),
    )
    y.backward(upstream)
    return {"output": y.detach(), "gradient at x": x.grad}


def reference_block(x, weights, upstream):
    """PyTorch's own pre-norm layer."""
    layer = encoder_layer(x.shape[-1], 2, F.gelu)
    layer.load_state_dict(weights)
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(upstream)
    return {"output": y.detach(), "gradient at x": x.grad}


def encoder_layer(C, H, activation):
    """`nn.TransformerEncoderLayer` as GPT-2 has it, without dropout, in float64."""
    return nn.TransformerEncoderLayer(
        C,
        H,
        4 * C,
        dropout=0.0,
        activation=activation,
        batch_first=True,
        norm_first=True,
        dtype=torch.float64,
    )


# ---------------------------------------------------------------- tied_logits


def tied_cases(rng, hidden):
    """(tokens, E, P, W, upstream); the trunk is x -> tanh(x W)."""

    def case(B, T, V, C, T_max):
        tokens = torch.randint(V, (B, T), generator=rng)
        E, P = draw(rng, V, C, size=0.5), draw(rng, T_max, C, size=0.5)
        return tokens, E, P, draw(rng, C, C), draw(rng, B, T, V)

    yield case(1, 1, 3, 2, 1)
    yield case(1, 3, 4, 2, 3)
    yield case(2, 2, 5, 3, 4)  # fewer tokens than positions
    yield case(3, 3, 6, 4, 7)
    for _ in range(2 if hidden else 1):
        yield case(2, whole(rng, 1, 5), whole(rng, 3, 8), 3, 6)


def drive_tied(answer, tokens, E, P, W, upstream):
    """Logits, and the gradients at both tables."""
    import torch

    E, P = E.clone().requires_grad_(), P.clone().requires_grad_()
    logits = answer(tokens, E, P, lambda x: torch.tanh(x @ W))
    logits.backward(upstream)
    P_grad = torch.zeros_like(P) if P.grad is None else P.grad
    return {
        "logits": logits.detach(),
        "gradient at E": E.grad,
        "gradient at P": P_grad,
    }


def reference_tied(tokens, E, P, W, upstream):
    """Forward and backward by hand."""
    T = tokens.shape[1]
    hidden = torch.tanh((E[tokens] + P[:T]) @ W)  # (B, T, C)
    as_read_out = torch.einsum("btv,btc->vc", upstream, hidden)
    at_input = (upstream @ E * (1 - hidden.square())) @ W.T  # (B, T, C)
    as_embedding = torch.zeros_like(E).index_add(
        0, tokens.flatten(), at_input.flatten(0, 1)
    )
    P_grad = torch.zeros_like(P)
    P_grad[:T] = at_input.sum(0)
    return {
        "logits": hidden @ E.T,
        "gradient at E": as_read_out + as_embedding,
        "gradient at P": P_grad,
    }


# ---------------------------------------------------------------- initialise


def initialise_cases(rng, hidden):
    """(L, tied, seed)"""
    for L, tied in [(1, True), (2, False)] + [(4, True), (3, False)] * hidden:
        yield L, tied, whole(rng, 0, 10_000)


def drive_initialise(answer, L, tied, seed):
    """A small GPT of 256 channels, every number of it 0.5; statistics of what is left.

    For each matrix: deviation and mean in units of 0.02, the share of numbers within
    one deviation of 0, and whether one is beyond 3.5 (of 65,536 normal ones, some 30
    are). For each vector: its lowest and highest number. Of all matrices: whether two
    have the same first row, up to a factor (256 numbers drawn twice correlate by 0.06).
    """
    import torch
    from torch import nn

    C = 256

    def block():
        parts = {
            "norm_1": nn.LayerNorm(C),
            "attention": nn.ModuleDict(
                {"q_proj": nn.Linear(C, C), "out_proj": nn.Linear(C, C)}
            ),
            "mlp": nn.ModuleDict(
                {"up_proj": nn.Linear(C, C), "down_proj": nn.Linear(C, C)}
            ),
        }
        return nn.ModuleDict(parts)

    model = nn.Module()
    model.token, model.position = nn.Embedding(C, C), nn.Embedding(C, C)
    model.blocks = nn.ModuleList(block() for _ in range(L))
    model.norm, model.head = nn.LayerNorm(C), nn.Linear(C, C, bias=False)
    if tied:
        model.head.weight = model.token.weight
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.5)
    torch.manual_seed(seed)
    answer(model, L)
    found = {"tied": model.head.weight is model.token.weight}
    rows = torch.stack([p[0].detach() for p in model.parameters() if p.ndim == 2])
    alike = torch.corrcoef(rows.double()).fill_diagonal_(0.0)
    found["matrices that are alike"] = bool((alike > 0.9).any())
    for name, p in model.named_parameters():
        w = p.detach().double()
        if w.ndim == 2:
            inside = (w.abs() < w.std()).double().mean()
            far = (w.abs() > 3.5 * w.std()).any()
            statistics = (w.std() / 0.02, w.mean() / 0.02, inside, far)
        else:
            statistics = (w.min(), w.max())
        found[name] = [float(s) for s in statistics]
        found[f"{name} can be trained"] = p.requires_grad and p.is_leaf
    return found


def reference_initialise(L, tied, seed):
    """A normal variable is within one deviation with probability erf(1 / sqrt 2)."""
    inside = math.erf(1 / math.sqrt(2))
    matrix, writer = [1.0, 0.0, inside, 1.0], [(2 * L) ** -0.5, 0.0, inside, 1.0]
    due = {"token.weight": matrix, "position.weight": matrix}
    for i in range(L):
        block = f"blocks.{i}"
        due[f"{block}.norm_1.weight"] = due[f"{block}.norm_1.bias"] = [0.5, 0.5]
        for name in ("attention.q_proj", "mlp.up_proj"):
            due[f"{block}.{name}.weight"] = matrix
            due[f"{block}.{name}.bias"] = [0.0, 0.0]
        for name in ("attention.out_proj", "mlp.down_proj"):
            due[f"{block}.{name}.weight"] = writer
            due[f"{block}.{name}.bias"] = [0.0, 0.0]
    due["norm.weight"] = due["norm.bias"] = [0.5, 0.5]
    if not tied:
        due["head.weight"] = matrix
    return {
        "tied": tied,
        "matrices that are alike": False,
        **due,
        **{f"{name} can be trained": True for name in due},
    }


# ---------------------------------------------------------------- parameter_count


def count_cases(rng, hidden):
    """(V, T, C, L, tied)"""
    yield 2, 1, 1, 1, True
    yield 3, 2, 2, 1, False
    yield 5, 4, 2, 2, True
    yield 50_257, 1024, 768, 12, True  # GPT-2 small
    for _ in range(4 if hidden else 2):
        V, T, C, L = (whole(rng, 1, n) for n in (300, 200, 100, 20))
        yield V, T, C, L, bool(whole(rng, 0, 2))


def drive_count(answer, V, T, C, L, tied):
    return answer(V, T, C, L, tied)


def reference_count(V, T, C, L, tied):
    """The shape of every tensor, one by one."""
    norm = [(C,), (C,)]
    attention = [(C, C), (C,)] * 4
    mlp = [(4 * C, C), (4 * C,), (C, 4 * C), (C,)]
    tensors = [(V, C), (T, C), *norm]
    for _ in range(L):
        tensors += [*norm, *attention, *norm, *mlp]
    if not tied:
        tensors.append((V, C))
    return sum(math.prod(shape) for shape in tensors)


# ---------------------------------------------------------------- gpt2_logits


def gpt_state(rng, V, T, C, L):
    """The state dict of a GPT-2 with weights large enough to tell mistakes apart."""
    state = {
        "token.weight": draw(rng, V, C),
        "position.weight": draw(rng, T, C),
        "norm.weight": 1 + draw(rng, C, size=0.3),
        "norm.bias": draw(rng, C, size=0.3),
    }
    linears = {f"attention.{x}_proj": (C, C) for x in ("q", "k", "v", "out")}
    linears |= {"mlp.up_proj": (4 * C, C), "mlp.down_proj": (C, 4 * C)}
    for i in range(L):
        for name in ("norm_1", "norm_2"):
            state[f"blocks.{i}.{name}.weight"] = 1 + draw(rng, C, size=0.3)
            state[f"blocks.{i}.{name}.bias"] = draw(rng, C, size=0.3)
        for name, shape in linears.items():
            state[f"blocks.{i}.{name}.weight"] = draw(rng, *shape, size=0.5)
            state[f"blocks.{i}.{name}.bias"] = draw(rng, shape[0], size=0.5)
    return state


def gpt_cases(rng, hidden):
    """(tokens, state, H)"""
    sizes = [(1, 1, 3, 2, 1, 1, 1), (1, 2, 3, 2, 1, 1, 2), (2, 4, 5, 4, 2, 2, 6)]
    sizes += [(2, 5, 7, 6, 3, 3, 8)] * (2 if hidden else 1)
    for B, T, V, C, H, L, T_max in sizes:
        tokens = torch.randint(V, (B, T), generator=rng)
        yield tokens, gpt_state(rng, V, T_max, C, L), H
    # more than ten layers, and the names in another order
    state = dict(reversed(gpt_state(rng, 5, 3, 4, 11).items()))
    yield torch.tensor([[4, 0, 2]]), state, 2


def drive_gpt(answer, tokens, state, H):
    before = {name: value.clone() for name, value in state.items()}
    logits = answer(tokens, state, H)
    same = all(before[name].equal(value) for name, value in state.items())
    return {"logits": logits, "state unchanged": same and len(state) == len(before)}


@torch.no_grad()
def reference_gpt(tokens, state, H):
    """PyTorch's pre-norm encoder layers under a causal mask."""
    T, C = tokens.shape[1], state["token.weight"].shape[1]
    x = state["token.weight"][tokens] + state["position.weight"][:T]
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    L = 1 + max(int(n.split(".")[1]) for n in state if n.startswith("blocks."))
    for i in range(L):
        layer = encoder_layer(C, H, lambda z: F.gelu(z, approximate="tanh"))
        layer.load_state_dict(as_encoder_layer(state, f"blocks.{i}."))
        x = layer(x, src_mask=future)
    x = F.layer_norm(x, (C,), state["norm.weight"], state["norm.bias"])
    return {"logits": x @ state["token.weight"].T, "state unchanged": True}


def as_encoder_layer(state, prefix):
    """The weights of one block under PyTorch's names."""
    names = {
        "self_attn.out_proj": "attention.out_proj",
        "linear1": "mlp.up_proj",
        "linear2": "mlp.down_proj",
        "norm1": "norm_1",
        "norm2": "norm_2",
    }
    found = {}
    for kind in ("weight", "bias"):
        for theirs, ours in names.items():
            found[f"{theirs}.{kind}"] = state[f"{prefix}{ours}.{kind}"]
        stacked = [state[f"{prefix}attention.{x}_proj.{kind}"] for x in "qkv"]
        found[f"self_attn.in_proj_{kind}"] = torch.cat(stacked)
    return found


TASKS = {
    "layer_norm": Task(
        norm_cases,
        drive_norm,
        reference_norm,
        MISTAKES["layer_norm"],
        forbid=("F.layer_norm", "nn.LayerNorm", "torch.native_layer_norm"),
        # at an offset of 1e5 the mean itself is right to 1e-11, some ten of them here
        tolerance={**TOLERANCE, "float64": 1e-8, "float32": 2e-5},
    ),
    "gelu": Task(
        gelu_cases,
        drive_gelu,
        reference_gelu,
        MISTAKES["gelu"],
        forbid=("F.gelu", "nn.GELU"),
    ),
    "sinusoids": Task(
        sinusoid_cases,
        drive_sinusoids,
        reference_sinusoids,
        MISTAKES["sinusoids"],
        # an angle of 40 in float32 is right to 4e-6, its speed to some 1e-7 of that
        tolerance={**TOLERANCE, "float32": 1e-4},
    ),
    "pre_norm_block": Task(
        block_cases, drive_block, reference_block, MISTAKES["pre_norm_block"]
    ),
    "tied_logits": Task(
        tied_cases, drive_tied, reference_tied, MISTAKES["tied_logits"]
    ),
    "initialise": Task(
        initialise_cases,
        drive_initialise,
        reference_initialise,
        MISTAKES["initialise"],
        tolerance={**TOLERANCE, "float64": 0.02},
    ),
    "parameter_count": Task(
        count_cases, drive_count, reference_count, MISTAKES["parameter_count"]
    ),
    "gpt2_logits": Task(gpt_cases, drive_gpt, reference_gpt, MISTAKES["gpt2_logits"]),
}
