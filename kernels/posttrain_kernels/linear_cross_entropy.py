"""The last layer and its loss in one, without ever holding all logits.

    logits = x Wᵀ        loss = cross_entropy(logits, target)
    dx = dlogits W       dW = dlogitsᵀ x

With 16384 tokens and a vocabulary of 128K, the logits alone are 4 GiB in bf16, and
PyTorch holds them several times over, in bf16 and fp32. But the loss of a token needs
its own row of logits only. So the tokens are taken in chunks: make the logits of a
chunk, turn them into their gradient in place (the kernels of `cross_entropy`), add what
they give to dx and dW, and use the memory again. Both gradients are ready after the
forward pass; the backward pass multiplies them by the gradient of the loss.

The price: gradients are computed even if backward never comes; dW is summed over the
chunks in an fp32 buffer; and in 16 bits the gradients are rounded before they are
multiplied, which costs a digit unless the gradient of the loss is a power of two.
"""

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from posttrain_kernels.common import FLOATS, Cost, check_same_device, register
from posttrain_kernels.cross_entropy import IGNORE


def reference(
    x: Tensor, weight: Tensor, target: Tensor, ignore_index: int = IGNORE
) -> Tensor:
    """The mean loss in plain PyTorch, with the fp32 logits of all tokens at once."""
    logits = F.linear(x, weight)  # (N, V)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, target, ignore_index=ignore_index)


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    ignore_index: int = IGNORE,
    reduction: str = "mean",
    chunk_rows: int | None = None,
) -> Tensor:
    """cross_entropy(x @ weight.T, target), in chunks of tokens.

    x: (N, C) and weight: (V, C), both contiguous and of one dtype: fp32, fp16 or bf16.
    target: (N,) int64; ignore_index and targets outside of the vocabulary as in
    `cross_entropy`. reduction: "mean" over the rows that count, or "sum". chunk_rows:
    tokens at a time; None takes so many that their logits are about as large as x.
    Returns fp32, (). Gradients for x and weight have their dtype; each is computed only
    where it is asked for. It cannot be differentiated twice.
    Raises TypeError for another dtype, ValueError for another shape, stride, device,
    reduction or chunk.
    Source: Liger Kernel (Hsu et al. 2024), section 3.2 (FusedLinearCrossEntropy).
    """
    _check(x, weight, target, reduction, chunk_rows)
    mean = reduction == "mean"
    return _LinearCrossEntropy.apply(x, weight, target, ignore_index, mean, chunk_rows)


def default_chunk_rows(n_rows: int, vocab: int, width: int) -> int:
    """Tokens in a chunk so that (chunk, V) is about as large as (N, C)."""
    return triton.next_power_of_2(triton.cdiv(n_rows * width, vocab))


def cost(n_rows: int, width: int, vocab: int, dtype: torch.dtype) -> Cost:
    """Forward and backward: three products of 2·N·C·V FLOPs; x and weight read, their
    gradients written. Logits, which stay on the chip at best, are not counted."""
    moved = 2 * (n_rows * width + vocab * width) * dtype.itemsize
    return Cost(bytes=moved, flops=6 * n_rows * width * vocab)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, target, ignore_index, mean, chunk_rows):
        loss, dx, dweight = torch.ops.posttrain_kernels.linear_cross_entropy(
            *(x, weight, target, ignore_index, mean, chunk_rows),
            *ctx.needs_input_grad[:2],
        )
        ctx.save_for_backward(dx, dweight)
        return loss

    @staticmethod
    def backward(ctx, dloss):
        dx, dweight = (
            gradient * dloss.to(gradient.dtype) if wanted else None
            for gradient, wanted in zip(
                ctx.saved_tensors, ctx.needs_input_grad[:2], strict=True
            )
        )
        return dx, dweight, None, None, None, None


def loss_and_gradients(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    ignore_index: int,
    mean: bool,
    chunk_rows: int | None,
    needs_dx: bool,
    needs_dweight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loop over chunks: loss (), dx (N, C) and dweight (V, C) for dloss = 1.

    A gradient that is not needed comes back empty.
    """
    if chunk_rows is None:
        chunk_rows = default_chunk_rows(x.shape[0], *weight.shape)
    kept = target != ignore_index
    dlosses = torch.where(kept, 1 / kept.sum() if mean else 1.0, 0.0)  # (N,)
    losses = x.new_zeros((), dtype=torch.float32)
    dx = torch.empty_like(x) if needs_dx else x.new_empty(0)
    total = weight.new_zeros(weight.shape if needs_dweight else 0, dtype=torch.float32)
    operators = torch.ops.posttrain_kernels
    for start in range(0, x.shape[0], chunk_rows):
        chunk = slice(start, start + chunk_rows)
        logits = x[chunk] @ weight.t()  # (chunk, V)
        loss, m, d = operators.cross_entropy_forward(
            logits, target[chunk], ignore_index
        )
        losses += loss.sum()
        if needs_dx or needs_dweight:
            operators.cross_entropy_backward_(
                logits, target[chunk], m, d, dlosses[chunk], ignore_index
            )  # from here on `logits` holds dlogits
        if needs_dx:
            torch.mm(logits, weight, out=dx[chunk])
        if needs_dweight:
            total += logits.t() @ x[chunk]
    return losses / kept.sum() if mean else losses, dx, total.to(weight.dtype)


def _fake(x, weight, target, ignore_index, mean, chunk_rows, needs_dx, needs_dweight):
    return (
        x.new_empty((), dtype=torch.float32),
        torch.empty_like(x) if needs_dx else x.new_empty(0),
        torch.empty_like(weight) if needs_dweight else weight.new_empty(0),
    )


def _check(x, weight, target, reduction, chunk_rows) -> None:
    """Raise unless the arguments of `linear_cross_entropy` fit each other."""
    check_same_device(x=x, weight=weight, target=target)
    if x.dtype not in FLOATS or weight.dtype != x.dtype:
        raise TypeError(
            f"x is {x.dtype} and weight {weight.dtype}; both must be the same of"
            " float32, float16 or bfloat16"
        )
    if target.dtype != torch.int64:
        raise TypeError(f"target is {target.dtype}; call target.long()")
    sizes = [tuple(tensor.shape) for tensor in (x, weight, target)]
    if [len(size) for size in sizes] != [2, 2, 1] or (
        (sizes[0][0], sizes[1][1]) != (sizes[2][0], sizes[0][1])
    ):
        raise ValueError(
            f"x {sizes[0]}, weight {sizes[1]} and target {sizes[2]} must be (N, C),"
            " (V, C) and (N,): flatten batch and time into N"
        )
    for name, tensor in (("x", x), ("weight", weight), ("target", target)):
        if not tensor.is_contiguous():
            raise ValueError(
                f"{name} has strides {tensor.stride()}: call {name}.contiguous() first"
            )
    if reduction not in ("mean", "sum"):
        raise ValueError(
            f'reduction={reduction!r} is neither "mean" nor "sum"; for losses one by'
            " one, use cross_entropy"
        )
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows={chunk_rows}: at least one token at a time")


register(
    "linear_cross_entropy(Tensor x, Tensor weight, Tensor target, int ignore_index,"
    " bool mean, SymInt? chunk_rows, bool needs_dx, bool needs_dweight)"
    " -> (Tensor, Tensor, Tensor)",
    launch=loss_and_gradients,
    fallback=loss_and_gradients,
    fake=_fake,
)
