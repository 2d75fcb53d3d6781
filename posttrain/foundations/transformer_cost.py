"""What a GPT-2 costs, by formula: parameters, FLOPs a token.

    parameters(GPT2Config.small())["all"]       # 124,439,808
    flops_per_token(GPT2Config.small(), T=1024)

The formulas are derived in the chapter; the tests hold them to the model's own tensors
and to the products that PyTorch counts.
"""

from __future__ import annotations

from posttrain.foundations.transformer import GPT2Config


def parameters(config: GPT2Config) -> dict[str, int]:
    """How many numbers are trained, by part; "all" is their sum.

    A tied read-out has none of its own.
    """
    C, L = config.C, config.L
    parts = {
        "token embedding": config.V * C,
        "positions": config.T * C if config.positions == "learned" else 0,
        "attention": L * (4 * C * C + 4 * C),  # q, k, v, out, each with a bias
        "MLP": L * (8 * C * C + 5 * C),  # up with 4 C biases, down with C
        "norms": L * 4 * C + (2 * C if config.pre_norm else 0),  # gains and biases
        "read-out": 0 if config.tied else config.V * C,
    }
    return {**parts, "all": sum(parts.values())}


def matrix_parameters(config: GPT2Config) -> int:
    """N of "6 N": the numbers that multiply something, once for each token.

    The matrices of the blocks and the read-out, tied or not. Looking up an embedding
    is no product, and biases and gains are too few to count.
    """
    return 12 * config.L * config.C**2 + config.V * config.C


def flops_per_token(config: GPT2Config, T: int) -> int:
    """FLOPs of one training step for each of T tokens: forward, and twice backward.

    6 N for the matrices, 12 L T C for the T x T tables of attention (the whole table:
    a kernel that leaves out the masked half does half of it).
    Source: Kaplan et al. 2020, section 2.1, and Chowdhery et al. 2022, appendix B.
    """
    return 6 * matrix_parameters(config) + 12 * config.L * T * config.C
