"""How wrong may a kernel be? Not much more than PyTorch is in the same dtype."""

import torch
from torch import Tensor


def assert_accurate(
    ours: Tensor, peer: Tensor, exact: Tensor, factor: float = 2.0, what: str = "result"
) -> None:
    """Raise AssertionError unless `ours` errs at most `factor` times as `peer` does.

    ours: what the kernel gave. peer: the same by PyTorch, same dtype. exact: the same
    by PyTorch in fp64 from the same inputs. All of one shape. The error is the largest
    absolute difference from `exact`. Where the peer is lucky, it counts as one rounding
    of the largest number: half an eps of the dtype. In fp32 on a GPU that is two eps,
    which its exp2, rsqrt and fast division may err by themselves (PTX ISA).
    The message tells the first NaN, or the worst element, and both errors.
    Source: the tests of flash-attention (Dao 2023) use this rule.
    """
    if ours.shape != exact.shape or ours.dtype != peer.dtype:
        raise AssertionError(
            f"{what} is {tuple(ours.shape)} {ours.dtype}, due is"
            f" {tuple(exact.shape)} {peer.dtype}"
        )
    if exact.numel() == 0:
        return
    difference = (ours.double() - exact.double()).abs()
    missing = ~difference.isfinite() & exact.isfinite()
    if missing.any():
        first = _index(missing.int())
        raise AssertionError(
            f"{what} is {ours[first]} in {int(missing.sum())} of {missing.numel()}"
            f" elements, first at {first}, due is {exact[first]:.6g}: was it written?"
        )
    eps = torch.finfo(ours.dtype).eps
    approximate = ours.is_cuda and ours.dtype == torch.float32
    rounding = eps * (2 if approximate else 0.5) * exact.abs().max().item()
    allowed = factor * max((peer.double() - exact).abs().max().item(), rounding)
    if difference.max() > allowed:
        worst = _index(difference)
        raise AssertionError(
            f"{what} is off by {difference[worst]:.3g} at {worst}: it is"
            f" {ours[worst]:.6g}, due is {exact[worst]:.6g}; allowed is {allowed:.3g},"
            f" {factor:g} times the error of PyTorch in {ours.dtype}"
        )


def _index(score: Tensor) -> tuple[int, ...]:
    """Where the largest element is."""
    return tuple(int(i) for i in torch.unravel_index(score.argmax(), score.shape))
