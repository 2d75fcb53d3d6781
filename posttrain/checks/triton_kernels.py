"""Checks of the exercise `triton_kernels`.

Kernels run in the strict mode of `posttrain_kernels.lab`, on the CPU: an access out of
bounds, a race, an undefined lane or an overflow is an error, programs run in shuffled
order, new memory is poisoned. The log of that mode tells how many launches there were
and what they moved. References: the same in float64 by PyTorch, `F.cross_entropy`, a
loop over weights with bitsandbytes' layout, a walk over the five kernels of softmax.
"""

from __future__ import annotations

import math

# each `drive` imports it again, where the answer runs; the judge needs it before it
# lowers its own rights and can read no more files
import posttrain_kernels.lab  # noqa: F401
import torch
import torch.nn.functional as F

from posttrain.checks.draws import whole
from posttrain.checks.mistakes.triton_kernels import MISTAKES
from posttrain.checks.task import TOLERANCE, Task

HALVES = (torch.float16, torch.bfloat16)


def normal(rng, *shape, scale=1.0, dtype=torch.float32):
    """Standard normal numbers, times `scale`."""
    numbers = torch.randn(*shape, generator=rng, dtype=torch.float64)
    return (numbers * scale).to(dtype)


# --------------------------------------------------------------------- scale_add


def scale_add_cases(rng, hidden):
    yield torch.tensor([3.0]), torch.tensor([-1.0]), 2.0
    yield normal(rng, 256), normal(rng, 256), -0.5  # one full block
    large = torch.tensor([1000.0], dtype=torch.float16)
    yield large, -large, 1.0004  # in float16 the product is 1000.5, and alpha is 1
    for dtype, n in ((torch.float32, 300), (torch.float16, 513)):
        yield normal(rng, n, dtype=dtype), normal(rng, n, dtype=dtype), 1.5
    if hidden:
        n = whole(rng, 258, 1100)
        x, y = (normal(rng, n, dtype=torch.bfloat16) for _ in range(2))
        yield x, y, whole(rng, -9, 10) / 4


def drive_scale_add(answer, x, y, alpha):
    import math

    from posttrain_kernels import lab

    given = x.clone(), y.clone()
    with lab.strict() as log:
        result = answer(x, y, alpha)
    ours = [t for t in (x, y, result) if hasattr(t, "untyped_storage")]
    known = {t.untyped_storage().data_ptr() for t in ours}
    used = {t.untyped_storage().data_ptr() for one in log for t in one.tensors.values()}
    return {
        "result": result,
        "launches": len(log),
        "programs": sum(math.prod(one.grid) for one in log),
        "bytes read": sum(one.loaded for one in log),
        "bytes written": sum(one.stored for one in log),
        "inputs as they were": given[0].equal(x) and given[1].equal(y),
        "the kernel gets inputs and result": used == known,
    }


def reference_scale_add(x, y, alpha):
    return {
        "result": (alpha * x.double() + y.double()).to(x.dtype),
        "launches": 1,
        "programs": -(-x.numel() // 256),
        "bytes read": 2 * x.nbytes,
        "bytes written": x.nbytes,
        "inputs as they were": True,
        "the kernel gets inputs and result": True,
    }


# ----------------------------------------------------------------------- softmax


def softmax_cases(rng, hidden):
    yield torch.tensor([[2.0]]), 1
    yield torch.tensor([[-507.0, -508.0, -509.0]]), 3  # padding must lie below
    yield normal(rng, 2, 8, scale=300.0), 8
    yield normal(rng, 3, 5, dtype=torch.float16), 9  # rows that lie 9 apart
    if hidden:
        R, C = whole(rng, 2, 5), whole(rng, 2, 40)
        yield normal(rng, R, C, dtype=torch.bfloat16), C
        yield normal(rng, R, C) - 50.0, C + whole(rng, 1, 9)


def drive_softmax(answer, x, stride):
    """The rows of x, laid `stride` numbers apart, through the answer."""
    import torch
    from posttrain_kernels import lab

    rows = torch.empty_strided(x.shape, (stride, 1), dtype=x.dtype).copy_(x)
    with lab.strict() as log:
        y = answer(rows)
    ours = [t for t in (rows, y) if hasattr(t, "untyped_storage")]
    known = {t.untyped_storage().data_ptr() for t in ours}
    used = {t.untyped_storage().data_ptr() for one in log for t in one.tensors.values()}
    return {
        "y": y,
        "y is contiguous": y.is_contiguous(),
        "launches": len(log),
        "bytes read": sum(one.loaded for one in log),
        "bytes written": sum(one.stored for one in log),
        "x as it was": rows.equal(x),
        "the kernel gets inputs and result": used == known,
    }


def reference_softmax(x, stride):
    return {
        "y": x.double().softmax(dim=-1).to(x.dtype),
        "y is contiguous": True,
        "launches": 1,
        "bytes read": x.nbytes,
        "bytes written": x.nbytes,
        "x as it was": True,
        "the kernel gets inputs and result": True,
    }


# ---------------------------------------------------------------------- rms_norm


def rms_norm_cases(rng, hidden):
    yield torch.tensor([[3.0, 4.0, 0.0]]), torch.ones(3), 0.25, 3
    yield torch.tensor([[2.0]]), torch.tensor([-1.5]), 1e-6, 1
    yield normal(rng, 3, 6) + 1.0, normal(rng, 6), 0.1, 10
    x = normal(rng, 2, 20, scale=300.0, dtype=torch.float16)
    yield x, normal(rng, 20), 1e-5, 20  # squares overflow fp16
    if hidden:
        R, C = whole(rng, 2, 4), whole(rng, 2, 50)
        x = normal(rng, R, C, scale=0.2, dtype=torch.bfloat16)
        yield x, normal(rng, C), 0.01, C + whole(rng, 0, 5)


def drive_rms_norm(answer, x, weight, eps, stride):
    """The rows of x, laid `stride` numbers apart, through the answer."""
    import torch
    from posttrain_kernels import lab

    rows = torch.empty_strided(x.shape, (stride, 1), dtype=x.dtype).copy_(x)
    given = weight.clone()
    with lab.strict() as log:
        y, r = answer(rows, weight, eps)
    ours = [t for t in (rows, weight, y, r) if hasattr(t, "untyped_storage")]
    known = {t.untyped_storage().data_ptr() for t in ours}
    used = {t.untyped_storage().data_ptr() for one in log for t in one.tensors.values()}
    # by how many units in the last place of y it is off; a half, if it is rounded once
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + eps).sqrt()
    exact = exact * given.double()
    unit = torch.exp2(exact.abs().clamp(min=1e-4).log2().floor())
    unit = unit * torch.finfo(x.dtype).eps
    off = ((y.double() - exact).abs() / unit).max() if y.shape == x.shape else 1.0
    once = x.nbytes + len(x) * weight.nbytes  # a row a program, each with the weight
    return {
        "y": y,
        "r": r,
        "launches": len(log),
        "x is read once": x.nbytes < sum(one.loaded for one in log) <= once,
        "bytes written": sum(one.stored for one in log),
        "y is contiguous": y.is_contiguous(),
        "y is rounded once": x.element_size() == 4 or bool(off < 0.55),
        "inputs as they were": rows.equal(x) and weight.equal(given),
        "the kernel gets inputs and result": used == known,
    }


def reference_rms_norm(x, weight, eps, stride):
    r = (x.double().square().mean(dim=-1) + eps).rsqrt()
    return {
        "y": (x.double() * r[:, None] * weight.double()).to(x.dtype),
        "r": r.float(),
        "launches": 1,
        "x is read once": True,
        "bytes written": x.nbytes + 4 * len(x),
        "y is contiguous": True,
        "y is rounded once": True,
        "inputs as they were": True,
        "the kernel gets inputs and result": True,
    }


# ----------------------------------------------------------------- cross_entropy


def cross_entropy_cases(rng, hidden):
    def case(N, V, block, dtype=torch.float32, scale=3.0, shift=0.0):
        target = torch.tensor([whole(rng, 0, V) for _ in range(N)])
        return (normal(rng, N, V, scale=scale) + shift).to(dtype), target, block

    yield torch.tensor([[1.0, 2.0, 0.0, 5.0]]), torch.tensor([0]), 2  # it rises
    yield torch.tensor([[-320.0, -325.0, -329.0]]), torch.tensor([2]), 4  # far below 0
    banned = torch.tensor([[-math.inf] * 4 + [1.0, 3.0], [2.0] + [-math.inf] * 5])
    yield banned, torch.tensor([5, 0]), 4  # a first block, a last block of -inf
    yield torch.tensor([[60.0, 0.0, 80.0, 1.0, 100.0]]), torch.tensor([-100]), 2
    yield case(2, 19, 8, torch.float16)
    if hidden:
        N, V = whole(rng, 1, 3), whole(rng, 9, 40)
        yield case(N, V, 8, torch.bfloat16, shift=20.0)
        logits, target, block = case(N, V, 4)
        target[0] = -100
        yield logits, target, block


def drive_cross_entropy(answer, logits, target, block):
    from posttrain_kernels import lab

    given = logits.clone(), target.clone()
    with lab.strict() as log:
        loss, lse = answer(logits, target, block)
    ours = [t for t in (logits, target, loss, lse) if hasattr(t, "untyped_storage")]
    known = {t.untyped_storage().data_ptr() for t in ours}
    used = {t.untyped_storage().data_ptr() for one in log for t in one.tensors.values()}
    # every logit once, and for each row its target and the logit of that
    once = logits.nbytes + target.nbytes + len(target) * logits.element_size()
    return {
        "loss": loss,
        "lse": lse,
        "launches": len(log),
        "logits are read once": logits.nbytes <= sum(x.loaded for x in log) <= once,
        "tiles within a block": max(x.widest for x in log) <= block if log else None,
        "inputs as they were": given[0].equal(logits) and given[1].equal(target),
        "the kernel gets inputs and result": used == known,
    }


def reference_cross_entropy(logits, target, block):
    loss = F.cross_entropy(logits.double(), target, reduction="none")
    return {
        "loss": loss.float(),
        "lse": logits.double().logsumexp(dim=-1).float(),
        "launches": 1,
        "logits are read once": True,
        "tiles within a block": True,
        "inputs as they were": True,
        "the kernel gets inputs and result": True,
    }


# ---------------------------------------------------------------- softmax_bounds


def softmax_bounds_cases(rng, hidden):
    yield 2, 8, 4, 100.0, 1e9  # plainly bound by memory
    yield 3, 5, 2, 1e9, 10.0  # plainly by arithmetic
    yield 4, 6, 4, 100.0, 16.0  # some kernels by this, some by that
    yield 1, 1, 2, 1.0, 1.0
    for _ in range(4 if hidden else 1):
        R, C, itemsize = whole(rng, 1, 9), whole(rng, 2, 40), 2 * whole(rng, 1, 3)
        yield R, C, itemsize, whole(rng, 1, 99) / 2.0, whole(rng, 1, 99) / 8.0


def drive_softmax_bounds(answer, R, C, itemsize, bandwidth, peak):
    naive, fused = answer(R, C, itemsize, bandwidth, peak)
    return {"naive": float(naive), "fused": float(fused)}


def reference_softmax_bounds(R, C, itemsize, bandwidth, peak):
    table, column = R * C, R  # numbers of a (R, C) and of a (R, 1) tensor
    # what is read, what is written, FLOPs
    kernels = {
        "amax": ([table], [column], table),
        "subtract": ([table, column], [table], table),
        "exp": ([table], [table], table),
        "sum": ([table], [column], table),
        "divide": ([table, column], [table], table),
    }
    seconds = [
        max((sum(reads) + sum(writes)) * itemsize / bandwidth, flops / peak)
        for reads, writes, flops in kernels.values()
    ]
    fused = max(2 * table * itemsize / bandwidth, 5 * table / peak)
    return {"naive": math.fsum(seconds), "fused": fused}


# -------------------------------------------------------------------- dequantize

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
# Two ways to multiply and round once may end one unit in the last place apart, 2^-10
# and 2^-7 of a number at most.
ONE_UNIT = {**TOLERANCE, "float16": 1.05 * 2**-10, "bfloat16": 1.05 * 2**-7}


def dequantize_cases(rng, hidden):
    def case(n, dtype, code=NF4):
        blocks = -(-n // 64)
        packed = torch.randint(0, 256, (-(-n // 2),), generator=rng, dtype=torch.uint8)
        absmax = torch.randint(0, 256, (blocks,), generator=rng, dtype=torch.uint8)
        # each block's scale lies between 0.5 and 3.5, and no two groups are alike
        nested = torch.linspace(0.5, 1.5, -(-blocks // 256))[
            torch.randperm(-(-blocks // 256), generator=rng)
        ]
        nested_code = torch.rand(256, generator=rng).sort().values * 2 - 1
        offset = torch.tensor(2.0 + whole(rng, -8, 8) / 64)
        return packed, absmax, torch.tensor(code), nested, nested_code, offset, n, dtype

    names = [str(dtype).removeprefix("torch.") for dtype in HALVES]
    yield case(64, names[0])
    mirrored = [-x for x in reversed(NF4)]  # another table
    yield case(1026, names[1], mirrored)  # a last block of two weights
    yield case(whole(rng, 100, 127) * 2 + 1, names[0])  # half a byte is left over
    if hidden:
        yield case(whole(rng, 300, 900), names[1])
    else:
        yield case(256 * 64 + 77, names[0])  # more blocks than share one fp32


def drive_dequantize(
    answer, packed, absmax, code, nested_absmax, nested_code, offset, n, dtype
):
    import torch
    from posttrain_kernels import lab

    given = packed, absmax, code, nested_absmax, nested_code, offset
    before = [x.clone() for x in given]
    with lab.strict() as log:
        weights = answer(*given, n, getattr(torch, dtype))
    known = {x.untyped_storage().data_ptr() for x in (*given, weights)}
    buffers = sorted(
        name
        for one in log
        for name, x in one.tensors.items()
        if x.untyped_storage().data_ptr() not in known
    )
    return {
        "weights": weights,
        "launches": len(log),
        "bytes written": sum(one.stored for one in log),
        "buffers of your own": buffers,
        "inputs as they were": all(map(torch.equal, before, given)),
    }


def reference_dequantize(
    packed, absmax, code, nested_absmax, nested_code, offset, n, dtype
):
    # by float64, a weight at a time: which byte, which half, which block, which group
    place = torch.arange(n)
    byte = packed[place // 2].long()
    q = torch.where(place % 2 == 0, byte // 16, byte % 16)
    block = place // 64
    group = nested_absmax[block // 256].double()
    scale = nested_code[absmax[block].long()].double() * group + offset.double()
    kind = getattr(torch, dtype)
    return {
        "weights": (code[q].double() * scale).to(kind),
        "launches": 1,
        "bytes written": n * kind.itemsize,
        "buffers of your own": [],
        "inputs as they were": True,
    }


TASKS = {
    "scale_add": Task(
        scale_add_cases, drive_scale_add, reference_scale_add, MISTAKES["scale_add"]
    ),
    "softmax": Task(
        softmax_cases, drive_softmax, reference_softmax, MISTAKES["softmax"]
    ),
    "rms_norm": Task(
        rms_norm_cases, drive_rms_norm, reference_rms_norm, MISTAKES["rms_norm"]
    ),
    "cross_entropy": Task(
        cross_entropy_cases,
        drive_cross_entropy,
        reference_cross_entropy,
        MISTAKES["cross_entropy"],
    ),
    "softmax_bounds": Task(
        softmax_bounds_cases,
        drive_softmax_bounds,
        reference_softmax_bounds,
        MISTAKES["softmax_bounds"],
        tolerance={**TOLERANCE, "float64": 1e-9},
    ),
    "dequantize": Task(
        dequantize_cases,
        drive_dequantize,
        reference_dequantize,
        MISTAKES["dequantize"],
        tolerance=ONE_UNIT,
    ),
}
