"""What goes wrong in the exercise `transformer`, and the hint for each."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from posttrain.checks.task import Mistake

# ---------------------------------------------------------------- layer_norm


def norm_divides_by_C_minus_1(x, gain, bias, eps=1e-5):
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * gain + bias


def norm_eps_outside_the_root(x, gain, bias, eps=1e-5):
    mean = x.mean(-1, keepdim=True)
    deviation = (x - mean).square().mean(-1, keepdim=True).sqrt()
    return (x - mean) / (deviation + eps) * gain + bias


def norm_keeps_the_mean(x, gain, bias, eps=1e-5):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain + bias


def norm_over_all_dimensions(x, gain, bias, eps=1e-5):
    centred = x - x.mean()
    return centred / (centred.square().mean() + eps).sqrt() * gain + bias


def norm_by_difference_of_squares(x, gain, bias, eps=1e-5):
    mean = x.mean(-1, keepdim=True)
    variance = x.square().mean(-1, keepdim=True) - mean.square()
    return (x - mean) / (variance.clamp(min=0) + eps).sqrt() * gain + bias


def norm_statistics_are_constants(x, gain, bias, eps=1e-5):
    fixed = x.detach()
    mean = fixed.mean(-1, keepdim=True)
    variance = (fixed - mean).square().mean(-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * gain + bias


# ---------------------------------------------------------------- gelu


def gelu_exact(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_by_sigmoid(x):
    return x * torch.sigmoid(1.702 * x)


def gelu_without_the_cube(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * x))


def gelu_without_the_one(x):
    return 0.5 * x * torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def gelu_root_of_pi_halves(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(math.pi / 2) * (x + 0.044715 * x**3)))


# ---------------------------------------------------------------- sinusoids


def angles_of(T, C, first=0):
    speed = 10_000.0 ** (-torch.arange(0, C, 2) / C)
    return torch.arange(first, first + T)[:, None] * speed


def sinusoids_side_by_side(T, C):
    angle = angles_of(T, C)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def sinusoids_cosine_first(T, C):
    angle = angles_of(T, C)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(1)


def sinusoids_from_one(T, C):
    angle = angles_of(T, C, first=1)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def sinusoids_exponent_i_over_C(T, C):
    speed = 10_000.0 ** (-torch.arange(C // 2) / C)
    angle = torch.arange(T)[:, None] * speed
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def sinusoids_every_channel_its_own_speed(T, C):
    angle = torch.arange(T)[:, None] * 10_000.0 ** (-torch.arange(C) / C)
    even = torch.arange(C) % 2 == 0
    return torch.where(even, angle.sin(), angle.cos())


# ---------------------------------------------------------------- pre_norm_block


def block_post_norm(x, norm_1, attention, norm_2, mlp):
    x = norm_1(x + attention(x))
    return norm_2(x + mlp(x))


def block_adds_the_normed_input(x, norm_1, attention, norm_2, mlp):
    x = norm_1(x)
    x = x + attention(x)
    x = norm_2(x)
    return x + mlp(x)


def block_without_residuals(x, norm_1, attention, norm_2, mlp):
    return mlp(norm_2(attention(norm_1(x))))


def block_without_norms(x, norm_1, attention, norm_2, mlp):
    x = x + attention(x)
    return x + mlp(x)


def block_in_parallel(x, norm_1, attention, norm_2, mlp):
    return x + attention(norm_1(x)) + mlp(norm_2(x))


def block_second_sum_from_the_input(x, norm_1, attention, norm_2, mlp):
    return x + mlp(norm_2(x + attention(norm_1(x))))


# ---------------------------------------------------------------- tied_logits


def tied_without_positions(tokens, E, P, trunk):
    return trunk(E[tokens]) @ E.T


def tied_positions_by_token(tokens, E, P, trunk):
    return trunk(E[tokens] + P[tokens % len(P)]) @ E.T


def tied_read_out_is_a_copy(tokens, E, P, trunk):
    return trunk(E[tokens] + P[: tokens.shape[1]]) @ E.detach().clone().T


def tied_embedding_is_a_copy(tokens, E, P, trunk):
    return trunk(E.detach()[tokens] + P[: tokens.shape[1]]) @ E.T


def tied_scaled_by_root_C(tokens, E, P, trunk):
    x = E[tokens] * math.sqrt(E.shape[1]) + P[: tokens.shape[1]]
    return trunk(x) @ E.T


def tied_last_positions(tokens, E, P, trunk):
    return trunk(E[tokens] + P[-tokens.shape[1] :]) @ E.T


# ---------------------------------------------------------------- initialise


@torch.no_grad()
def fill(model, L, std=0.02, factor=None, biases=True, embeddings=True, draw=None):
    """A right answer, cut into the places where each mistake goes wrong."""
    draw = draw or nn.init.normal_
    factor = (2 * L) ** -0.5 if factor is None else factor
    for name, module in model.named_modules():
        kinds = (nn.Linear, nn.Embedding) if embeddings else (nn.Linear,)
        if isinstance(module, kinds):
            writes = name.endswith(("out_proj", "down_proj"))
            draw(module.weight, std=std * (factor if writes else 1.0))
            if biases and getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)


def uniform(weight, std):
    nn.init.uniform_(weight, -std * 3**0.5, std * 3**0.5)


def initialise_without_the_factor(model, L):
    fill(model, L, factor=1.0)


def initialise_one_write_a_layer(model, L):
    fill(model, L, factor=L**-0.5)


def initialise_divides_by_2L(model, L):
    fill(model, L, factor=1 / (2 * L))


def initialise_variance_for_deviation(model, L):
    fill(model, L, std=0.02**0.5)


def initialise_forgets_biases(model, L):
    fill(model, L, biases=False)


def initialise_forgets_embeddings(model, L):
    fill(model, L, embeddings=False)


def initialise_uniform(model, L):
    fill(model, L, draw=uniform)


def initialise_truncated(model, L):
    def truncated(weight, std):
        nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)

    fill(model, L, draw=truncated)


def initialise_seeds_each_matrix(model, L):
    def seeded(weight, std):
        nn.init.normal_(weight, std=std, generator=torch.Generator().manual_seed(0))

    fill(model, L, draw=seeded)


# ---------------------------------------------------------------- parameter_count


def count(V, T, C, L, tied, block=None, last=None):
    block = 12 * C * C + 13 * C if block is None else block
    last = 2 * C if last is None else last
    return V * C + T * C + L * block + last + (0 if tied else V * C)


def count_without_biases(V, T, C, L, tied):
    return count(V, T, C, L, tied, block=12 * C * C + 2 * C, last=C)


def count_without_positions(V, T, C, L, tied):
    return count(V, T, C, L, tied) - T * C


def count_always_untied(V, T, C, L, tied):
    return count(V, T, C, L, False)


def count_always_tied(V, T, C, L, tied):
    return count(V, T, C, L, True)


def count_without_the_last_norm(V, T, C, L, tied):
    return count(V, T, C, L, tied, last=0)


def count_of_the_up_bias_as_C(V, T, C, L, tied):
    return count(V, T, C, L, tied, block=12 * C * C + 10 * C)


# ---------------------------------------------------------------- gpt2_logits


class RightGPT2:
    """A right answer, cut into the places where each mistake goes wrong."""

    causal, heads, last_norm, gelu = True, True, True, "tanh"

    def layers(self):
        names = {n.split(".")[1] for n in self.state if n.startswith("blocks.")}
        return range(len(names))

    def __init__(self, tokens, state, H):
        self.state, self.H = state, H if self.heads else 1
        x = self.embed(tokens)
        for i in self.layers():
            x = self.block(x, f"blocks.{i}.")
        if self.last_norm:
            x = self.norm(x, "norm")
        self.logits = x @ state["token.weight"].T

    def embed(self, tokens):
        places = self.state["position.weight"][: tokens.shape[1]]
        return self.state["token.weight"][tokens] + places

    def block(self, x, at):
        x = x + self.attention(self.norm(x, at + "norm_1"), at + "attention.")
        return x + self.mlp(self.norm(x, at + "norm_2"), at + "mlp.")

    def linear(self, x, name):
        return F.linear(x, self.state[name + ".weight"], self.state[name + ".bias"])

    def norm(self, x, name):
        gain, bias = self.state[name + ".weight"], self.state[name + ".bias"]
        return F.layer_norm(x, gain.shape, gain, bias)

    def attention(self, x, at):
        q, k, v = (
            self.linear(x, f"{at}{n}_proj").unflatten(-1, (self.H, -1)).transpose(1, 2)
            for n in "qkv"
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.linear(y.transpose(1, 2).flatten(2), at + "out_proj")

    def mlp(self, x, at):
        wide = F.gelu(self.linear(x, at + "up_proj"), approximate=self.gelu)
        return self.linear(wide, at + "down_proj")


class LayersAsText(RightGPT2):
    def layers(self):
        return sorted({n.split(".")[1] for n in self.state if n.startswith("blocks.")})


class LayersOfOneDigit(RightGPT2):
    def layers(self):
        digits = {n[len("blocks.")] for n in self.state if n.startswith("blocks.")}
        return range(len(digits))


class LayersAsTheyCome(RightGPT2):
    def layers(self):
        names = [n.split(".")[1] for n in self.state if n.startswith("blocks.")]
        return dict.fromkeys(names)


class NoMask(RightGPT2):
    causal = False


class OneHead(RightGPT2):
    heads = False


class NoLastNorm(RightGPT2):
    last_norm = False


class ExactGelu(RightGPT2):
    gelu = "none"


class PostNorm(RightGPT2):
    def block(self, x, at):
        x = self.norm(x + self.attention(x, at + "attention."), at + "norm_1")
        return self.norm(x + self.mlp(x, at + "mlp."), at + "norm_2")


class NoPositions(RightGPT2):
    def embed(self, tokens):
        return self.state["token.weight"][tokens]


class NoBiases(RightGPT2):
    def linear(self, x, name):
        return x @ self.state[name + ".weight"].T


class WeightsNotTransposed(RightGPT2):
    def linear(self, x, name):
        w = self.state[name + ".weight"]
        y = x @ w if w.shape[0] == w.shape[1] else x @ w.T
        return y + self.state[name + ".bias"]


def gpt_layers_as_text(tokens, state, H):
    return LayersAsText(tokens, state, H).logits


def gpt_layers_of_one_digit(tokens, state, H):
    return LayersOfOneDigit(tokens, state, H).logits


def gpt_layers_as_they_come(tokens, state, H):
    return LayersAsTheyCome(tokens, state, H).logits


def gpt_no_mask(tokens, state, H):
    return NoMask(tokens, state, H).logits


def gpt_one_head(tokens, state, H):
    return OneHead(tokens, state, H).logits


def gpt_no_last_norm(tokens, state, H):
    return NoLastNorm(tokens, state, H).logits


def gpt_exact_gelu(tokens, state, H):
    return ExactGelu(tokens, state, H).logits


def gpt_post_norm(tokens, state, H):
    return PostNorm(tokens, state, H).logits


def gpt_no_positions(tokens, state, H):
    return NoPositions(tokens, state, H).logits


def gpt_no_biases(tokens, state, H):
    return NoBiases(tokens, state, H).logits


def gpt_not_transposed(tokens, state, H):
    return WeightsNotTransposed(tokens, state, H).logits


MISTAKES = {
    "layer_norm": (
        Mistake(
            norm_divides_by_C_minus_1,
            "the variance of LayerNorm divides by C, not by C - 1: `x.var` needs "
            "`correction=0`, or write the mean of the squares.",
        ),
        Mistake(
            norm_eps_outside_the_root,
            "eps belongs under the root: sqrt(variance + eps).",
        ),
        Mistake(
            norm_keeps_the_mean,
            "the mean is not taken away. That is RMSNorm; LayerNorm centres first.",
        ),
        Mistake(
            norm_over_all_dimensions,
            "mean and variance are those of each position alone: over the last "
            "dimension, with keepdim=True.",
        ),
        Mistake(
            norm_by_difference_of_squares,
            "mean(x^2) - mean(x)^2 subtracts two large numbers and loses all digits "
            "when the mean is far from 0. Centre first, then square.",
        ),
        Mistake(
            norm_statistics_are_constants,
            "the output is right, the gradient is not: mean and variance depend on x "
            "too, so do not detach them.",
        ),
    ),
    "gelu": (
        Mistake(
            gelu_exact,
            "that is the exact x Phi(x). GPT-2 was trained with the formula with tanh; "
            "the two differ by up to 0.0005, and weights belong to one of them.",
        ),
        Mistake(gelu_by_sigmoid, "that is the coarser form, x sigmoid(1.702 x)."),
        Mistake(gelu_without_the_cube, "the term 0.044715 x^3 is missing."),
        Mistake(
            gelu_without_the_one,
            "the 1 in (1 + tanh) is missing: without it the function is even.",
        ),
        Mistake(gelu_root_of_pi_halves, "the factor is sqrt(2 / pi), not its inverse."),
    ),
    "sinusoids": (
        Mistake(
            sinusoids_side_by_side,
            "sine and cosine of one angle stand next to each other: channels 2i and "
            "2i + 1. You put all sines first.",
        ),
        Mistake(sinusoids_cosine_first, "the sine comes first, in the even channels."),
        Mistake(sinusoids_from_one, "positions count from 0."),
        Mistake(
            sinusoids_exponent_i_over_C,
            "the exponent is 2i / C for pair i, so speeds reach down to about "
            "1 / 10,000. Yours stop at 1 / 100.",
        ),
        Mistake(
            sinusoids_every_channel_its_own_speed,
            "both channels of a pair turn at one speed; only then is a shift a "
            "rotation.",
        ),
    ),
    "pre_norm_block": (
        Mistake(
            block_post_norm,
            "that is post-norm: the norm comes after the sum. Here it stands before "
            "the sublayer, inside the branch.",
        ),
        Mistake(
            block_adds_the_normed_input,
            "you add to the normed x. The stream itself stays as it is: "
            "x + attention(norm_1(x)).",
        ),
        Mistake(block_without_residuals, "the sums are missing: x + ... , twice."),
        Mistake(block_without_norms, "the norms are not used."),
        Mistake(
            block_in_parallel,
            "the MLP must read what attention has written: the second line starts from "
            "the new x.",
        ),
        Mistake(
            block_second_sum_from_the_input,
            "the second sum adds to the x of the beginning, so what attention wrote "
            "is lost from the stream.",
        ),
    ),
    "tied_logits": (
        Mistake(tied_without_positions, "the positions are not added."),
        Mistake(
            tied_positions_by_token,
            "a position embedding is chosen by where a token stands, not by which "
            "token it is: P[:T].",
        ),
        Mistake(
            tied_read_out_is_a_copy,
            "the logits are right, the gradient is not: E also gets one from the "
            "read-out. Use E itself, not a copy.",
        ),
        Mistake(
            tied_embedding_is_a_copy,
            "the logits are right, the gradient is not: E also gets one where it is "
            "looked up.",
        ),
        Mistake(
            tied_scaled_by_root_C,
            "the factor sqrt(C) is in the paper of 2017, not in GPT-2.",
        ),
        Mistake(tied_last_positions, "T tokens stand at positions 0 ... T - 1: P[:T]."),
    ),
    "initialise": (
        Mistake(
            initialise_without_the_factor,
            "`out_proj` and `down_proj` write into the residual stream: their "
            "deviation is 0.02 / sqrt(2 L).",
        ),
        Mistake(
            initialise_one_write_a_layer,
            "each layer writes twice, attention and MLP: sqrt(2 L), not sqrt(L).",
        ),
        Mistake(
            initialise_divides_by_2L,
            "variances add, deviations do not: 2 L writes of 1 / sqrt(2 L) each sum "
            "up to 1. Divide by the root.",
        ),
        Mistake(
            initialise_variance_for_deviation,
            "0.02 is the standard deviation, not the variance.",
        ),
        Mistake(initialise_forgets_biases, "biases of linear layers start at 0."),
        Mistake(
            initialise_forgets_embeddings,
            "the embeddings are drawn too, with deviation 0.02.",
        ),
        Mistake(initialise_uniform, "draw from a normal distribution."),
        Mistake(
            initialise_truncated,
            "the tails are cut off. The weights are normal, not truncated: of 65,536 "
            "numbers some 180 lie beyond three deviations.",
        ),
        Mistake(
            initialise_seeds_each_matrix,
            "the seed is set anew for every matrix, so all of them hold the same "
            "numbers. Set no seed here.",
        ),
    ),
    "parameter_count": (
        Mistake(
            count_without_biases,
            "biases are missing: one for each output of each linear layer of a block, "
            "and one for each gain of a norm.",
        ),
        Mistake(count_without_positions, "the table of positions, T C, is missing."),
        Mistake(
            count_always_untied,
            "a tied read-out is the embedding: count it once.",
        ),
        Mistake(
            count_always_tied,
            "an untied read-out is a matrix of its own: V C more.",
        ),
        Mistake(count_without_the_last_norm, "the norm after the last block: 2 C."),
        Mistake(
            count_of_the_up_bias_as_C,
            "the first linear layer of the MLP has 4 C outputs, so 4 C biases.",
        ),
    ),
    "gpt2_logits": (
        Mistake(
            gpt_layers_as_text,
            'the layers are sorted as text, where "10" comes before "2". Count with '
            "integers.",
        ),
        Mistake(
            gpt_layers_of_one_digit,
            "a layer's number may have two digits: split the name at its dots.",
        ),
        Mistake(
            gpt_layers_as_they_come,
            "a dict of tensors may hold its names in any order: run the layers as they "
            "are numbered.",
        ),
        Mistake(gpt_no_mask, "positions see the future: attention must be causal."),
        Mistake(gpt_one_head, "H is not used: cut the channels into H heads."),
        Mistake(gpt_no_last_norm, "the norm after the last block is missing."),
        Mistake(gpt_exact_gelu, "GPT-2's GELU is the one with tanh."),
        Mistake(gpt_post_norm, "the norms come before the sublayers."),
        Mistake(gpt_no_positions, "the position embeddings are not added."),
        Mistake(gpt_no_biases, "the linear layers of a block have biases."),
        Mistake(
            gpt_not_transposed,
            "a weight is stored as (out, in), as nn.Linear has it: y = x W^T + b.",
        ),
    ),
}
