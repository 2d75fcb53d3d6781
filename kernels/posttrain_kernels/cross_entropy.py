"""Cross-entropy from logits, forward and backward, without a copy of the logits.

    loss_n = log d_n + m_n - x_n[t_n],   m_n = max_v x_nv,   d_n = Σ_v exp(x_nv - m_n)

    dx_nv = dloss_n · (exp(x_nv - m_n) / d_n - [v = t_n])

PyTorch in bf16 first makes an fp32 copy of the logits and a table of log-probabilities;
here fp32 exists only in registers. The forward pass reads the logits once (the running
maximum and sum of Milakov and Gimelshein 2018) and keeps m and d, two numbers a row.
The backward pass reads the logits once more and writes the gradient, over the logits if
you let it. One number a row, m + log d, would do, but m swallows digits of log d.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from posttrain_kernels.common import FLOATS, Cost, check_same_device, register

IGNORE = -100
BLOCK = 4096  # vocabulary entries in registers at a time
NUM_WARPS = 8


def reference(logits: Tensor, target: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """Losses (N,) in plain PyTorch; 0 where the target is `ignore_index`."""
    kept = target != ignore_index
    index = target.where(kept, 0)[:, None]
    chosen = logits.log_softmax(dim=-1).gather(1, index)[:, 0]
    return torch.where(kept, -chosen, 0.0)


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = IGNORE,
    reduction: str = "mean",
) -> Tensor:
    """The negative log-probability of the targets, as in torch.nn.functional.

    logits: (N, V) in fp32, fp16 or bf16, columns contiguous. target: (N,) int64, in
    0 ... V - 1, or ignore_index for rows that neither count nor get a gradient. Any
    other target gives NaN: to refuse it, the GPU would have to be waited for.
    reduction: "mean" over the rows that count (NaN if none does), "sum", or "none".
    Returns fp32, () or (N,). The gradient has the dtype of the logits.
    Raises TypeError for another dtype, ValueError for another shape, stride, device or
    reduction.
    Source: Milakov and Gimelshein 2018, algorithm 3; Liger Kernel (Hsu et al. 2024).
    """
    check_logits(logits, target)
    losses = _CrossEntropy.apply(logits, target, ignore_index)  # (N,)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction == "mean":
        return losses.sum() / (target != ignore_index).sum()
    raise ValueError(f'reduction={reduction!r} is none of "mean", "sum", "none"')


def cost(n_rows: int, vocab: int, dtype: torch.dtype, backward: bool = False) -> Cost:
    """Forward: logits read, 4 FLOPs each (max, subtract, exp, sum). Backward: read and
    written, 4 FLOPs each. Targets, losses, m and d (20 bytes a row) are counted."""
    numbers = n_rows * vocab
    passes = 2 if backward else 1
    moved = passes * numbers * dtype.itemsize + 20 * n_rows
    return Cost(bytes=moved, flops=4 * numbers)


def check_logits(logits: Tensor, target: Tensor) -> None:
    """Raise unless logits (N, V) and target (N,) fit each other and the kernel."""
    check_same_device(logits=logits, target=target)
    if logits.dtype not in FLOATS:
        raise TypeError(
            f"logits are {logits.dtype}; cast them to float32, float16 or bfloat16"
        )
    if target.dtype != torch.int64:
        raise TypeError(f"target is {target.dtype}; call target.long()")
    if logits.ndim != 2 or target.shape != logits.shape[:1] or not logits.shape[-1]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} must be"
            " (N, V) and (N,): flatten batch and time into N"
        )
    if logits.stride(1) != 1 or not target.is_contiguous():
        raise ValueError(
            f"logits have strides {logits.stride()}, target {target.stride()}; the"
            " kernel reads along the vocabulary: call .contiguous() first"
        )


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, ignore_index):
        losses, m, d = torch.ops.posttrain_kernels.cross_entropy_forward(
            logits, target, ignore_index
        )
        ctx.save_for_backward(logits, target, m, d)
        ctx.ignore_index = ignore_index
        return losses

    @staticmethod
    def backward(ctx, dloss):
        dlogits = torch.ops.posttrain_kernels.cross_entropy_backward(
            *ctx.saved_tensors, dloss.contiguous(), ctx.ignore_index
        )
        return dlogits, None, None


@triton.jit
def cross_entropy_forward_kernel(
    x_ptr,
    target_ptr,
    loss_ptr,
    m_ptr,
    d_ptr,
    stride,
    vocab,
    ignore,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    x_ptr += row * stride
    m = tl.full((), -float("inf"), tl.float32)  # the maximum so far
    d = tl.zeros((), tl.float32)  # Σ exp(x - m) so far
    for start in range(0, vocab, BLOCK):
        mask = start + cols < vocab
        x = tl.load(x_ptr + start + cols, mask=mask, other=-float("inf"))
        x = x.to(tl.float32)
        higher = tl.maximum(m, tl.max(x, axis=0))
        # a row that begins with -inf has no maximum yet: -inf - -inf would be NaN
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        d = d * tl.exp(m - shift) + tl.sum(tl.exp(x - shift), axis=0)
        m = higher
    target = tl.load(target_ptr + row)
    known = (target >= 0) & (target < vocab)
    chosen = tl.load(x_ptr + target, mask=known, other=float("nan")).to(tl.float32)
    loss = tl.where(target == ignore, 0.0, tl.log(d) + (m - chosen))
    tl.store(loss_ptr + row, loss)
    tl.store(m_ptr + row, m)
    # an unknown target shall make the gradient NaN as well
    d = tl.where(known | (target == ignore), d, float("nan"))
    tl.store(d_ptr + row, d)


@triton.jit
def cross_entropy_backward_kernel(
    x_ptr,
    target_ptr,
    m_ptr,
    d_ptr,
    dloss_ptr,
    dx_ptr,
    x_stride,
    dx_stride,
    vocab,
    ignore,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < vocab
    target = tl.load(target_ptr + row)
    m = tl.load(m_ptr + row)
    d = tl.load(d_ptr + row)
    dloss = tl.load(dloss_ptr + row)
    x = tl.load(x_ptr + row * x_stride + cols, mask=mask, other=0.0).to(tl.float32)
    dx = dloss * (tl.exp(x - m) / d - tl.where(cols == target, 1.0, 0.0))
    dx = tl.where(target == ignore, 0.0, dx)
    dx = dx.to(dx_ptr.dtype.element_ty)
    tl.store(dx_ptr + row * dx_stride + cols, dx, mask=mask)


def _launch_forward(logits: Tensor, target: Tensor, ignore_index: int):
    losses, m, d = _fake_forward(logits, target, ignore_index)
    n_rows, vocab = logits.shape
    if n_rows:
        cross_entropy_forward_kernel[(n_rows,)](
            *(logits, target, losses, m, d, logits.stride(0), vocab, ignore_index),
            BLOCK=_block(vocab),
            num_warps=NUM_WARPS,
        )
    return losses, m, d


def _launch_backward_into(dlogits, logits, target, m, d, dloss, ignore_index) -> None:
    n_rows, vocab = logits.shape
    block = _block(vocab)
    if n_rows:
        cross_entropy_backward_kernel[(n_rows, triton.cdiv(vocab, block))](
            *(logits, target, m, d, dloss, dlogits),
            *(logits.stride(0), dlogits.stride(0), vocab, ignore_index),
            BLOCK=block,
            num_warps=NUM_WARPS,
        )


def _launch_backward(logits, target, m, d, dloss, ignore_index: int) -> Tensor:
    dlogits = logits.new_empty(logits.shape)
    _launch_backward_into(dlogits, logits, target, m, d, dloss, ignore_index)
    return dlogits


def _launch_backward_inplace(logits, target, m, d, dloss, ignore_index: int) -> None:
    _launch_backward_into(logits, logits, target, m, d, dloss, ignore_index)


def _block(vocab: int) -> int:
    return min(BLOCK, triton.next_power_of_2(vocab))


def _forward_in_pytorch(logits: Tensor, target: Tensor, ignore_index: int):
    x = logits.float()
    m = x.amax(dim=-1)  # (N,)
    d = (x - m[:, None]).exp().sum(dim=-1)  # (N,)
    known = (target >= 0) & (target < logits.shape[1])
    chosen = x.gather(1, target.where(known, 0)[:, None])[:, 0]
    d = d.where(known | (target == ignore_index), float("nan"))
    losses = d.log() + (m - chosen)
    return torch.where(target == ignore_index, 0.0, losses), m, d


def _backward_in_pytorch(logits, target, m, d, dloss, ignore_index: int) -> Tensor:
    dx = (logits.float() - m[:, None]).exp() / d[:, None]  # (N, V), the probabilities
    known = (target >= 0) & (target < logits.shape[1])
    index = target.where(known, 0)[:, None]
    dx.scatter_add_(1, index, torch.full_like(index, -1, dtype=dx.dtype))
    dx = torch.where((target == ignore_index)[:, None], 0.0, dx * dloss[:, None])
    return dx.to(logits.dtype).contiguous()


def _backward_in_pytorch_inplace(logits, target, m, d, dloss, ignore_index) -> None:
    logits.copy_(_backward_in_pytorch(logits, target, m, d, dloss, ignore_index))


def _fake_forward(logits: Tensor, target: Tensor, ignore_index: int):
    losses = logits.new_empty(logits.shape[0], dtype=torch.float32)
    return losses, torch.empty_like(losses), torch.empty_like(losses)


register(
    "cross_entropy_forward(Tensor logits, Tensor target, int ignore_index)"
    " -> (Tensor, Tensor, Tensor)",
    launch=_launch_forward,
    fallback=_forward_in_pytorch,
    fake=_fake_forward,
)
register(
    "cross_entropy_backward(Tensor logits, Tensor target, Tensor m, Tensor d,"
    " Tensor dloss, int ignore_index) -> Tensor",
    launch=_launch_backward,
    fallback=_backward_in_pytorch,
    fake=lambda logits, *_: logits.new_empty(logits.shape),
)
register(
    "cross_entropy_backward_(Tensor(a!) logits, Tensor target, Tensor m, Tensor d,"
    " Tensor dloss, int ignore_index) -> ()",
    launch=_launch_backward_inplace,
    fallback=_backward_in_pytorch_inplace,
    fake=lambda *_: None,
)
