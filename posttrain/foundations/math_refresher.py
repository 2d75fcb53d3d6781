"""Softmax, cross-entropy and KL in NumPy, with every gradient worked out by hand.

There is no autograd in this file: each `..._gradient` and `..._backward` is a formula
of the chapter, written down. Tests hold them against PyTorch.

Letters: z logits, p and q probabilities, V classes (always the last axis), N rows, y
the class that came, g the gradient of the loss at an output. Logarithms are natural,
so losses are in nats. Results have the float type of the input.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
IGNORE = -100  # the label that `F.cross_entropy` leaves out, too


def softmax(z: Array, tau: float = 1.0) -> Array:
    """Logits (..., V) to probabilities (..., V): exp(z/tau), divided by its sum.

    The largest logit of each row is subtracted first. That changes nothing in the
    result, and no exponential is above 1. A logit of -inf gets probability 0.
    tau: temperature, > 0. Raises ValueError for another tau, and for a row whose
    largest logit is not finite (all -inf, or NaN or +inf in it).
    """
    if not tau > 0:
        raise ValueError(f"temperature tau must be > 0, got {tau}; for 0 use argmax")
    e = np.exp(shifted(z) / tau)  # (..., V), in (0, 1]
    return e / e.sum(axis=-1, keepdims=True)


def log_softmax(z: Array) -> Array:
    """The logarithm of `softmax(z)`, (..., V), exact where the probability underflows.

    log p_i = (z_i - max z) - log Σ_j exp(z_j - max z): no logarithm of a small number.
    """
    s = shifted(z)
    return s - np.log(np.exp(s).sum(axis=-1, keepdims=True))


def shifted(z: Array) -> Array:
    """Logits (..., V) minus the largest of each row, so that the largest is 0."""
    top = z.max(axis=-1, keepdims=True)  # (..., 1)
    if not np.isfinite(top).all():
        row = np.argwhere(~np.isfinite(top[..., 0]))[0].tolist()
        raise ValueError(
            f"row {row} of the logits has {top[tuple(row)][0]} as its largest value;"
            " each row needs one finite logit, and no NaN or +inf"
        )
    return z - top


def softmax_jacobian(p: Array) -> Array:
    """∂p_i/∂z_j = p_i (δ_ij - p_j): from p (..., V) the matrices (..., V, V)."""
    return p[..., :, None] * (np.eye(p.shape[-1], dtype=p.dtype) - p[..., None, :])


def softmax_backward(p: Array, g: Array) -> Array:
    """Gradient at the logits, given g = ∂L/∂p: p · (g - Σ_j p_j g_j).

    p, g: (..., V). Returns (..., V). The same as g times `softmax_jacobian(p)`, without
    ever building a V x V matrix.
    """
    return p * (g - (p * g).sum(axis=-1, keepdims=True))


def cross_entropy(z: Array, y: NDArray[np.integer], ignore: int = IGNORE) -> float:
    """Mean of -log p(y) in nats, over the rows whose label is not `ignore`.

    z: logits (N, V). y: labels (N,), whole numbers 0 ... V-1, or `ignore`.
    Raises ValueError where shapes, types or labels do not fit, or no row is left.
    """
    rows = labelled_rows(z, y, ignore)
    return float(-log_softmax(z)[rows, y[rows]].mean())


def cross_entropy_gradient(
    z: Array, y: NDArray[np.integer], ignore: int = IGNORE
) -> Array:
    """Gradient of `cross_entropy` at the logits: (p - onehot(y)) / rows that count.

    Returns (N, V). Each row sums to 0; the row of an ignored label is 0.
    """
    rows = labelled_rows(z, y, ignore)
    gradient = np.zeros_like(z)
    gradient[rows] = softmax(z[rows])
    gradient[rows, y[rows]] -= 1
    return gradient / len(rows)


def labelled_rows(z: Array, y: NDArray[np.integer], ignore: int) -> NDArray[np.integer]:
    """The numbers of the rows that count in the loss; ValueError names a bad label."""
    if z.ndim != 2 or y.shape != z.shape[:1]:
        raise ValueError(
            f"logits {z.shape} and labels {y.shape} do not fit: they must be (N, V) and"
            " (N,). Flatten (B, T, V) with z.reshape(-1, V) and y.reshape(-1)"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels are class numbers, got dtype {y.dtype}")
    rows = np.flatnonzero(y != ignore)
    if not len(rows):
        raise ValueError(f"all {len(y)} labels are {ignore}: nothing to average")
    bad = rows[(y[rows] < 0) | (y[rows] >= z.shape[1])]
    if len(bad):
        raise ValueError(
            f"label {y[bad[0]]} in row {bad[0]} is not in 0 ... {z.shape[1] - 1};"
            f" leave a row out with the label {ignore}"
        )
    return rows


def entropy(p: Array) -> Array:
    """-Σ p log p in nats over the last axis: (..., V) -> (...); 0 log 0 counts 0."""
    return -(p * log_or_zero(p)).sum(axis=-1)


def kl_divergence(p: Array, q: Array) -> Array:
    """KL(p || q) = Σ p log(p/q) in nats, over the last axis: (..., V) -> (...).

    What it costs to believe q when p is true. Terms with p = 0 count 0, whatever q is;
    a class with p > 0 and q = 0 makes it inf. Not symmetric.
    """
    missed = ((p > 0) & (q <= 0)).any(axis=-1)  # true, but held to be impossible
    finite = (p * (log_or_zero(p) - log_or_zero(q))).sum(axis=-1)
    return np.where(missed, np.inf, finite)


def kl_gradient_at_q(p: Array, q: Array) -> Array:
    """Gradient of KL(p || q) at the logits of q: q - p, (..., V).

    The case of distillation and of cross-entropy: p is given, q learns.
    """
    return q - p


def kl_gradient_at_p(p: Array, q: Array) -> Array:
    """Gradient of KL(p || q) at the logits of p: p · (log(p/q) - KL(p || q)), (..., V).

    The case of RLHF: p is the policy that learns, q the reference. Needs q > 0.
    """
    log_ratio = log_or_zero(p) - log_or_zero(q)
    return p * (log_ratio - kl_divergence(p, q)[..., None])


def log_or_zero(p: Array) -> Array:
    """log p where p > 0, and 0 where p = 0."""
    return np.log(p, out=np.zeros_like(p), where=p > 0)


def linear_backward(x: Array, W: Array, g: Array) -> tuple[Array, Array, Array]:
    """Gradients of y = x W + b at x, W and b, given g = ∂L/∂y.

    x: (..., C)   W: (C, D)   g: (..., D). Returns those of x (..., C), W (C, D) and
    b (D,): each in the shape of what it is the gradient of. Raises ValueError where
    the shapes do not fit.
    """
    if x.shape != (*g.shape[:-1], W.shape[0]) or g.shape[-1] != W.shape[1]:
        raise ValueError(
            f"x {x.shape}, W {W.shape} and g {g.shape} do not fit: they must be"
            " (..., C), (C, D) and (..., D)"
        )
    rows, upstream = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return g @ W.T, rows.T @ upstream, upstream.sum(axis=0)
