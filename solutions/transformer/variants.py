"""Answers that the grader of `transformer` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------- layer_norm


def norm_by_var_mean(x, gain, bias, eps=1e-5):
    variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    return torch.addcmul(bias, (x - mean) * torch.rsqrt(variance + eps), gain)


def norm_as_a_projection(x, gain, bias, eps=1e-5):
    """Centring is a matrix: I - 1/C."""
    C = x.shape[-1]
    centre = torch.eye(C, dtype=x.dtype) - torch.full((C, C), 1 / C, dtype=x.dtype)
    x = x - x[..., :1].detach()  # a shift changes nothing, and saves digits
    z = x @ centre
    return z * (z.pow(2).sum(-1, keepdim=True) / C + eps).pow(-0.5) * gain + bias


def norm_through_batch_norm(x, gain, bias, eps=1e-5):
    """Positions as the channels of a batch norm in training mode."""
    rows = x.reshape(1, -1, x.shape[-1])
    z = F.batch_norm(rows, None, None, training=True, eps=eps)
    return z.reshape(x.shape) * gain + bias


def norm_gain_before_the_root(x, gain, bias, eps=1e-5):
    centred = (x - x.mean(-1, keepdim=True)) * gain
    variance = centred.square().mean(-1, keepdim=True)
    return centred / (variance + eps).sqrt() + bias


def norm_with_eps_of_its_own(x, gain, bias, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain + bias
    )


# ---------------------------------------------------------------- gelu


def gelu_by_sigmoid_of_twice(x):
    """(1 + tanh(z)) / 2 = sigmoid(2 z)."""
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3)))


def gelu_horner_in_float64(x):
    z = x.double()
    inner = 0.7978845608028654 * z * (1 + 0.044715 * z * z)
    return (z - z * (1 - inner.tanh()) / 2).to(x.dtype)


def gelu_rounded_constant(x):
    return 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * x**3)))


def gelu_in_place(x):
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return x.mul_(0.5 * (1 + torch.tanh(inner)))


# ---------------------------------------------------------------- sinusoids


def sinusoids_by_complex_powers(T, C):
    """e^(i t w) holds the cosine and the sine; computed in double precision."""
    speed = torch.exp(
        -math.log(10_000.0) * torch.arange(0, C, 2, dtype=torch.float64) / C
    )
    turn = torch.polar(torch.ones_like(speed), speed)  # one step of each pair
    wave = turn ** torch.arange(T)[:, None]
    table = torch.empty(T, C)
    table[:, 0::2], table[:, 1::2] = wave.imag, wave.real
    return table


def sinusoids_as_shifted_sines(T, C):
    channel = torch.arange(C, dtype=torch.float64)
    speed = 10_000.0 ** (-(channel - channel % 2) / C)
    angle = torch.arange(T, dtype=torch.float64)[:, None] * speed
    return torch.sin(angle + math.pi / 2 * (channel % 2)).float()


def sinusoids_base_1000(T, C):
    angle = torch.arange(T)[:, None] * 1_000.0 ** (-torch.arange(0, C, 2) / C)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def sinusoids_in_float64(T, C):
    speed = 10_000.0 ** (-torch.arange(0, C, 2, dtype=torch.float64) / C)
    angle = torch.arange(T)[:, None] * speed
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


# ---------------------------------------------------------------- pre_norm_block


def block_in_a_loop(x, norm_1, attention, norm_2, mlp):
    for norm, sublayer in ((norm_1, attention), (norm_2, mlp)):
        x = torch.add(sublayer(norm(x)), x)
    return x


def block_without_recursion(x, norm_1, attention, norm_2, mlp):
    written = attention(norm_1(x))
    return x + written + mlp(norm_2(written + x))


def block_norms_swapped(x, norm_1, attention, norm_2, mlp):
    x = x + attention(norm_2(x))
    return x + mlp(norm_1(x))


def block_mlp_first(x, norm_1, attention, norm_2, mlp):
    x = x + mlp(norm_2(x))
    return x + attention(norm_1(x))


# ---------------------------------------------------------------- tied_logits


def tied_by_one_hot(tokens, E, P, trunk):
    """A look-up is a product with one-hot rows."""
    B, T = tokens.shape
    one_hot = F.one_hot(tokens, E.shape[0]).to(E.dtype)
    x = torch.einsum("btv,vc->btc", one_hot, E) + P.narrow(0, 0, T).expand(B, -1, -1)
    return torch.einsum("btc,vc->btv", trunk(x), E)


def tied_by_functional(tokens, E, P, trunk):
    positions = torch.arange(tokens.size(1)).expand_as(tokens)
    return F.linear(trunk(F.embedding(tokens, E) + F.embedding(positions, P)), E)


def tied_positions_across_the_batch(tokens, E, P, trunk):
    flat = E[tokens.flatten()]
    x = flat + P[torch.arange(len(flat)) % len(P)]
    return trunk(x.view(*tokens.shape, -1)) @ E.T


def tied_positions_after_the_trunk(tokens, E, P, trunk):
    return (trunk(E[tokens]) + P[: tokens.shape[1]]) @ E.T


# ---------------------------------------------------------------- initialise


def initialise_by_scaling_afterwards(model, L):
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                module.weight.normal_(0, 0.02)
                if getattr(module, "bias", None) is not None:
                    module.bias.fill_(0)
        for name, p in model.named_parameters():
            if name.endswith(("out_proj.weight", "down_proj.weight")):
                p.div_((2 * L) ** 0.5)


def initialise_by_parameter_names(model, L):
    for name, p in model.named_parameters():
        if "norm" in name:
            continue
        writes = "out_proj" in name or "down_proj" in name
        std = 0.02 * (2 * L) ** -0.5 if writes else 0.02
        p.data = torch.randn_like(p) * std if p.ndim == 2 else torch.zeros_like(p)


def initialise_only_out_proj(model, L):
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            std = 0.02 / math.sqrt(2 * L) if name.endswith("out_proj") else 0.02
            nn.init.normal_(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)


def initialise_unties(model, L):
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            writes = name.endswith(("out_proj", "down_proj"))
            std = 0.02 / math.sqrt(2 * L) if writes else 0.02
            module.weight = nn.Parameter(torch.randn_like(module.weight) * std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)


def initialise_resets_the_norms(model, L):
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        if isinstance(module, nn.Linear | nn.Embedding):
            writes = name.endswith(("out_proj", "down_proj"))
            std = 0.02 / math.sqrt(2 * L) if writes else 0.02
            nn.init.normal_(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)


# ---------------------------------------------------------------- parameter_count


def count_factored(V, T, C, L, tied):
    return C * ((2 - tied) * V + T + L * (12 * C + 13) + 2)


def count_on_the_meta_device(V, T, C, L, tied):
    with torch.device("meta"):
        block = [nn.LayerNorm(C), nn.LayerNorm(C)]
        block += [nn.Linear(C, C) for _ in range(4)]
        block += [nn.Linear(C, 4 * C), nn.Linear(4 * C, C)]
        outside = [nn.Embedding(V, C), nn.Embedding(T, C), nn.LayerNorm(C)]
    one = sum(p.numel() for part in block for p in part.parameters())
    rest = sum(p.numel() for part in outside for p in part.parameters())
    return L * one + rest + (0 if tied else V * C)


def count_twelve_C_squared(V, T, C, L, tied):
    return 12 * L * C * C + V * C


# ---------------------------------------------------------------- gpt2_logits


def gpt_one_head_at_a_time(tokens, state, H):
    """Heads in a loop, the mask as -inf, the norm and the GELU by hand."""
    E, P = state["token.weight"], state["position.weight"]
    T, C = tokens.shape[1], E.shape[1]
    D = C // H
    L = 1 + max(int(n.split(".")[1]) for n in state if n.startswith("blocks."))
    future = torch.full((T, T), -torch.inf, dtype=E.dtype).triu(1)

    def get(name):
        return state[name + ".weight"], state[name + ".bias"]

    def norm(x, name):
        gain, bias = get(name)
        z = x - x.mean(-1, keepdim=True)
        return z / (z.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain + bias

    def linear(x, name):
        weight, bias = get(name)
        return torch.einsum("bti,oi->bto", x, weight) + bias

    x = E[tokens] + P[torch.arange(T)]
    for i in range(L):
        z = norm(x, f"blocks.{i}.norm_1")
        q, k, v = (linear(z, f"blocks.{i}.attention.{n}_proj") for n in "qkv")
        found = []
        for h in range(H):
            cut = slice(h * D, (h + 1) * D)
            scores = q[..., cut] @ k[..., cut].mT / math.sqrt(D) + future
            found.append(scores.softmax(-1) @ v[..., cut])
        x = x + linear(torch.cat(found, -1), f"blocks.{i}.attention.out_proj")
        z = linear(norm(x, f"blocks.{i}.norm_2"), f"blocks.{i}.mlp.up_proj")
        z = z * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))
        x = x + linear(z, f"blocks.{i}.mlp.down_proj")
    return torch.einsum("btc,vc->btv", norm(x, "norm"), E)


def gpt_interleaved_heads(tokens, state, H):
    """Channel c belongs to head c mod H: other heads than those trained."""
    B, T = tokens.shape
    L = len({n.split(".")[1] for n in state if n.startswith("blocks.")})

    def linear(x, name):
        return F.linear(x, state[name + ".weight"], state[name + ".bias"])

    def norm(x, name):
        gain = state[name + ".weight"]
        return F.layer_norm(x, gain.shape, gain, state[name + ".bias"])

    x = state["token.weight"][tokens] + state["position.weight"][:T]
    for i in range(L):
        at = f"blocks.{i}."
        z = norm(x, at + "norm_1")
        q, k, v = (
            linear(z, f"{at}attention.{n}_proj")
            .reshape(B, T, -1, H)
            .permute(0, 3, 1, 2)
            for n in "qkv"
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.permute(0, 2, 3, 1).reshape(B, T, -1)
        x = x + linear(y, at + "attention.out_proj")
        z = F.gelu(
            linear(norm(x, at + "norm_2"), at + "mlp.up_proj"), approximate="tanh"
        )
        x = x + linear(z, at + "mlp.down_proj")
    return norm(x, "norm") @ state["token.weight"].T


RIGHT = {
    "layer_norm": [norm_by_var_mean, norm_as_a_projection, norm_through_batch_norm],
    "gelu": [gelu_by_sigmoid_of_twice, gelu_horner_in_float64],
    "sinusoids": [sinusoids_by_complex_powers, sinusoids_as_shifted_sines],
    "pre_norm_block": [block_in_a_loop, block_without_recursion],
    "tied_logits": [tied_by_one_hot, tied_by_functional],
    "initialise": [initialise_by_scaling_afterwards, initialise_by_parameter_names],
    "parameter_count": [count_factored, count_on_the_meta_device],
    "gpt2_logits": [gpt_one_head_at_a_time],
}

WRONG = {
    "layer_norm": [norm_gain_before_the_root, norm_with_eps_of_its_own],
    "gelu": [gelu_rounded_constant, gelu_in_place],
    "sinusoids": [sinusoids_base_1000, sinusoids_in_float64],
    "pre_norm_block": [block_norms_swapped, block_mlp_first],
    "tied_logits": [tied_positions_across_the_batch, tied_positions_after_the_trunk],
    "initialise": [
        initialise_only_out_proj,
        initialise_unties,
        initialise_resets_the_norms,
    ],
    "parameter_count": [count_twelve_C_squared],
    "gpt2_logits": [gpt_interleaved_heads],
}

_SYMMETRIC = "transpose takes its two dimensions in either order"

EQUIVALENT = {
    "gpt2_logits: `return x.reshape(B, T, H, -1).transpose(1, 2)` -> "
    "`return x.reshape(B, T, H, -1).transpose(2, 1)`": _SYMMETRIC,
    "gpt2_logits: `y = y.transpose(1, 2).reshape(B, T, -1)` -> "
    "`y = y.transpose(2, 1).reshape(B, T, -1)`": _SYMMETRIC,
}
