"""Checks of the exercise `quantization`.

References count in float64 or in whole numbers, element by element where that is
shortest: rounding to the nearest integer or the nearest table entry, sums of integers,
bytes.

No case asks for the code of a number halfway between two: rounding x / s may differ
there from rounding x · (1 / s), and so may two orders of a sum. Numbers are drawn
*around* a code, so each right answer has the same codes. Scales and products may differ
by the rounding of a few float32 operations, which the tolerance covers.
"""

from __future__ import annotations

import math

import torch

from posttrain.checks.draws import uniform, whole
from posttrain.checks.mistakes.quantization import MISTAKES
from posttrain.checks.task import Task

# the table of Dettmers et al. 2023, as fp32 numbers
NF4 = torch.tensor(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
        *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
        *(0.7229568362236023, 1.0),
    ]
)


def dynamic_table():
    """256 numbers: seven decades of either sign, cut finer where larger; 0 and 1."""
    numbers = [0.0, 1.0]
    for decade in range(7):
        n = 2**decade
        middles = [0.1 + 0.9 * (i + 0.5) / n for i in range(n)]
        numbers += [sign * m * 10 ** (decade - 6) for m in middles for sign in (1, -1)]
    return torch.tensor(sorted(numbers))


def near(rng, codes):
    """Integers, each moved by at most 0.4."""
    moved = torch.rand(codes.shape, generator=rng, dtype=torch.float64) * 0.8 - 0.4
    return codes.double() + moved


def symmetric(rng, shape, n, dim, low=0.01, high=3.0):
    """Numbers whose absmax over `dim` is n steps of a random scale; no ties.

    An extreme of either sign stands at a random place of every group.
    """
    steps = near(rng, torch.randint(-n + 1, n, shape, generator=rng))
    groups_shape = [1 if dim in (None, d) else size for d, size in enumerate(shape)]
    scales = torch.rand(groups_shape, generator=rng, dtype=torch.float64)
    groups = steps.flatten()[None] if dim is None else steps.movedim(dim, -1)
    for group in groups.reshape(-1, groups.shape[-1]):
        group[whole(rng, 0, len(group))] = n * (1 - 2 * whole(rng, 0, 2))
    steps = groups.reshape(shape) if dim is None else groups.movedim(-1, dim)
    return (steps * (low + (high - low) * scales)).float()


def nearest(x, table):
    """The index of the entry next to x."""
    return min(range(len(table)), key=lambda k: abs(table[k] - x))


# --------------------------------------------------------------- absmax_quantize


def absmax_cases(rng, hidden):
    yield torch.tensor([[1.0, -2.54, 0.26]]), 8, 1
    yield torch.tensor([[1.0, -2.3], [8.0, 3.0]]), 8, 1  # a scale for each row
    yield torch.tensor([[1.0, -2.3], [8.0, 3.0]]), 8, 0  # for each column
    yield torch.tensor([[0.8, -2.0], [8.0, 3.1]]), 4, None
    yield torch.tensor([[0.0, 0.0], [0.3, -1.0]]), 8, 1  # a row of zeros
    yield torch.tensor([[-5.0]]), 8, 1
    yield torch.tensor([[0.3, -1.0, 0.8]]), 2, 1  # three codes
    yield torch.tensor([[4e-6, -1.5e-6, 0.7e-6]]), 8, 1  # small is not 0
    for bits in (8, 5, 3):
        for dim in (1, 0, None):
            for _ in range(2 if hidden else 1):
                shape = whole(rng, 2, 6), whole(rng, 2, 7)
                yield symmetric(rng, shape, 2 ** (bits - 1) - 1, dim), bits, dim


def drive_absmax(answer, x, bits, dim):
    given = x.clone()
    codes, scale = answer(x, bits, dim)
    return {"codes": codes, "scale": scale, "x as it was": x.equal(given)}


def reference_absmax(x, bits, dim):
    n = 2 ** (bits - 1) - 1
    exact = x.double()
    absmax = exact.abs().amax() if dim is None else exact.abs().amax(dim)
    absmax = absmax.reshape(1, 1) if dim is None else absmax.unsqueeze(dim)
    scale = torch.where(absmax == 0, 1.0, absmax / n)
    codes = (exact / scale).round().to(torch.int8)
    return {"codes": codes, "scale": scale.float(), "x as it was": True}


# --------------------------------------------------------------- affine_quantize


def affine_cases(rng, hidden):
    yield torch.tensor([[0.0, 1.0, 2.5]]), 8
    yield torch.tensor([[-1.0, 0.4, 2.0]]), 8
    yield torch.tensor([[3.0, 3.0], [-4.0, -1.0]]), 8  # 0 is in the range all the same
    yield torch.tensor([[0.0, 0.0], [-1.0, 2.2]]), 8  # a row of zeros
    yield torch.tensor([[-2.0, 0.9, 0.8]]), 3
    yield torch.tensor([[4e-6, -1e-6]]), 8  # small is not 0
    for bits in (8, 8, 4):
        n = 2**bits - 1
        for _ in range(3 if hidden else 1):
            rows = []
            for _ in range(whole(rng, 1, 4)):
                zero, part = whole(rng, 1, n), uniform(rng, -0.35, 0.35)
                low, high = -(zero + part), n - (zero + part)
                inside = torch.randint(1, n, (5,), generator=rng) - zero
                ends = torch.tensor([high, low], dtype=torch.float64)
                row = torch.cat([near(rng, inside), ends])
                rows.append(row * uniform(rng, 0.01, 2.0))
            yield torch.stack(rows).float(), bits


def drive_affine(answer, x, bits):
    given = x.clone()
    codes, scale, zero = answer(x, bits)
    return {
        "codes": codes,
        "scale": scale,
        "zero": zero,
        "x as it was": x.equal(given),
    }


def reference_affine(x, bits):
    n, codes, scales, zeros = 2**bits - 1, [], [], []
    for row in x.tolist():
        low, high = min(0.0, *row), max(0.0, *row)
        scale = (high - low) / n or 1.0
        zero = round(-low / scale)
        codes.append([min(n, max(0, round(v / scale) + zero)) for v in row])
        scales.append([scale])
        zeros.append([zero])
    return {
        "codes": torch.tensor(codes, dtype=torch.uint8),
        "scale": torch.tensor(scales),
        "zero": torch.tensor(zeros, dtype=torch.int32),
        "x as it was": True,
    }


# ------------------------------------------------------------------- int8_linear


def int8_cases(rng, hidden):
    def weight(N, K):
        codes = torch.randint(-127, 128, (N, K), generator=rng).to(torch.int8)
        return codes, torch.rand(N, 1, generator=rng) + 0.01

    yield (
        torch.tensor([[2.0, -0.7]]),
        torch.tensor([[127, 64]]).to(torch.int8),
        (torch.tensor([[0.5]])),
    )
    # a quiet token beside a loud one, and a token of zeros
    x = torch.tensor([[0.01, -0.003], [50.0, 20.3], [0.0, 0.0]])
    yield x, *weight(3, 2)
    yield (
        torch.ones(2, 300),
        torch.full((2, 300), 127).to(torch.int8),
        (torch.tensor([[1.0], [3.0]])),
    )  # the sum is far above what 8 or 16 bits hold
    x, scales = torch.tensor([[4e-6, -1.5e-6]]), torch.tensor([[1e6]])
    yield x, torch.tensor([[127, 64]]).to(torch.int8), scales  # small is not 0
    for _ in range(5 if hidden else 2):
        M, N, K = whole(rng, 1, 6), whole(rng, 1, 6), whole(rng, 2, 40)
        yield symmetric(rng, (M, K), 127, 1), *weight(N, K)
    square = whole(rng, 2, 6)
    yield symmetric(rng, (square, 9), 127, 1), *weight(square, 9)


def drive_int8(answer, x, codes, scale):
    given = x.clone(), codes.clone(), scale.clone()
    y = answer(x, codes, scale)
    kept = [a.equal(b) for a, b in zip(given, (x, codes, scale), strict=True)]
    return {"y": y, "inputs as they were": kept}


def reference_int8(x, codes, scale):
    y = []
    for token in x.tolist():
        s = max(map(abs, token)) / 127 or 1.0
        p = [round(v / s) for v in token]
        sums = [
            sum(a * b for a, b in zip(p, q, strict=True)) for q in codes.int().tolist()
        ]
        y.append([s * total for total in sums])
    exact = torch.tensor(y, dtype=torch.float64) * scale.double().T
    return {"y": exact.float(), "inputs as they were": [True] * 3}


# ------------------------------------------------------------------ mixed_linear


def mixed_cases(rng, hidden):
    def case(M, N, K, loud, threshold=6.0):
        """`loud` columns hold an entry above the threshold, of either sign."""
        columns = torch.randperm(K, generator=rng)[:loud]
        calm = symmetric(rng, (M, K - loud), 127, 1, 0.005, 0.04) if loud < K else None
        kept = symmetric(rng, (N, K - loud), 127, 1, 0.001, 0.02) if loud < K else None
        x, weight = torch.zeros(M, K), torch.randn(N, K, generator=rng) * 3
        rest = torch.ones(K, dtype=torch.bool)
        rest[columns] = False
        if loud < K:
            x[:, rest], weight[:, rest] = calm, kept
        x[:, columns] = torch.randn(M, loud, generator=rng)
        for column in columns.tolist():
            sign = 1 - 2 * whole(rng, 0, 2)
            x[whole(rng, 0, M), column] = sign * uniform(rng, 7.0, 90.0)
        return x, weight, threshold

    yield torch.tensor([[1.0, 20.0]]), torch.tensor([[0.5, 2.0]]), 6.0
    yield torch.tensor([[1.0, -20.0], [2.0, 0.3]]), torch.tensor([[0.5, 2.0]]), 6.0
    # exactly at the threshold: an outlier
    yield torch.tensor([[1.0, 2.5, 6.0]]), torch.tensor([[0.3, -1.0, 2.07]]), 6.0
    # another threshold, met below 0; and a large weight makes no outlier column
    yield torch.tensor([[1.0, -4.0, -0.3]]), torch.tensor([[0.5, 2.0, 7.0]]), 4.0
    # a token and a channel of which nothing but zeros is left for the integers
    x = torch.tensor([[0.0, 20.0], [1.0, 0.3]])
    yield x, torch.tensor([[0.5, 2.0], [0.0, 1.0]]), 6.0
    # no entry reaches the threshold, though their sum does
    yield torch.tensor([[5.0, 1.0], [5.0, -2.0]]), torch.tensor([[0.5, 2.0]]), 6.0
    yield case(3, 2, 5, 0)
    yield case(2, 3, 3, 3)  # nothing is left for the integers
    yield case(2, 2, 8, 1)
    for _ in range(5 if hidden else 2):
        M, N, K = whole(rng, 1, 5), whole(rng, 1, 5), whole(rng, 4, 20)
        yield case(M, N, K, whole(rng, 1, 4))


def drive_mixed(answer, x, weight, threshold):
    given = x.clone(), weight.clone()
    y = answer(x, weight, threshold)
    kept = [a.equal(b) for a, b in zip(given, (x, weight), strict=True)]
    return {"y": y, "inputs as they were": kept}


def reference_mixed(x, weight, threshold):
    loud = (x.abs() >= threshold).any(dim=0)
    exact = x[:, loud].double() @ weight[:, loud].double().T
    y = exact
    if not loud.all():
        factors = []
        for matrix in (x[:, ~loud].double(), weight[:, ~loud].double()):
            absmax = matrix.abs().amax(dim=1, keepdim=True)
            scale = torch.where(absmax == 0, 1.0, absmax / 127)
            factors.append((matrix / scale).round() * scale)
        y = y + factors[0] @ factors[1].T
    return {"y": y.float(), "inputs as they were": [True, True]}


# -------------------------------------------------------------------- nf4_encode


def around(rng, q, table):
    """Numbers that are nearest to table[q]: at most 0.4 of the way to a neighbour."""
    table = table.double()
    gaps = torch.cat([table[1:] - table[:-1], table[-1:] * 0])
    up, down = gaps[q], gaps.roll(1)[q]
    u = torch.rand(q.shape, generator=rng, dtype=torch.float64) * 0.8 - 0.4
    return table[q] + torch.where(u > 0, u * up, u * down)


def encode_cases(rng, hidden):
    def case(blocks, table=NF4, quiet=None):
        q = torch.randint(len(table), (blocks, 64), generator=rng)
        x = around(rng, q, table).clamp(-0.99, 0.99)
        for row in x:
            row[whole(rng, 0, 64)] = 1 - 2 * whole(rng, 0, 2)
        x = x * (0.01 + 3 * torch.rand(blocks, 1, generator=rng, dtype=torch.float64))
        if quiet is not None:
            x[quiet] = 0.0
        return x.float().flatten(), table

    ramp = torch.zeros(64)
    ramp[:4] = torch.tensor([1.0, 0.0, 0.0, -1.0])
    yield ramp, NF4
    yield -2 * ramp, NF4
    yield 4e-6 * ramp, NF4  # small is not 0
    yield case(1)
    yield case(3, quiet=1)  # a block of zeros
    even = torch.arange(-7.5, 8) / 7.5  # another table: no zero, equal steps
    yield case(2, even)
    yield case(2, -NF4.flip(0), quiet=1)  # here 0 has the index 8
    for _ in range(3 if hidden else 1):
        yield case(whole(rng, 2, 5))


def drive_encode(answer, x, code):
    given = x.clone(), code.clone()
    packed, absmax = answer(x, code)
    kept = [a.equal(b) for a, b in zip(given, (x, code), strict=True)]
    return {"packed": packed, "absmax": absmax, "inputs as they were": kept}


def reference_encode(x, code):
    table, packed, absmax = code.tolist(), [], []
    for block in x.view(-1, 64).tolist():
        top = max(map(abs, block))
        q = [nearest(v / top if top else 0.0, table) for v in block]
        packed += [16 * a + b for a, b in zip(q[0::2], q[1::2], strict=True)]
        absmax.append(top)
    return {
        "packed": torch.tensor(packed, dtype=torch.uint8),
        "absmax": torch.tensor(absmax),
        "inputs as they were": [True, True],
    }


# -------------------------------------------------------------------- nf4_decode


def decode_cases(rng, hidden):
    def case(blocks, table=NF4):
        packed = torch.randint(256, (32 * blocks,), generator=rng).to(torch.uint8)
        return packed, torch.rand(blocks, generator=rng) * 4, table

    yield torch.full((32,), 0x0F).to(torch.uint8), torch.tensor([2.0]), NF4
    yield torch.full((32,), 0xF7).to(torch.uint8), torch.tensor([1.0]), NF4
    packed, _, table = case(2)
    yield packed, torch.tensor([0.0, 3.0]), table
    yield case(2, torch.arange(16.0))
    for _ in range(3 if hidden else 1):
        yield case(whole(rng, 2, 6))


def drive_decode(answer, packed, absmax, code):
    given = packed.clone(), absmax.clone(), code.clone()
    x = answer(packed, absmax, code)
    kept = [a.equal(b) for a, b in zip(given, (packed, absmax, code), strict=True)]
    return {"x": x, "inputs as they were": kept}


def reference_decode(packed, absmax, code):
    table, values = code.tolist(), []
    for i, byte in enumerate(packed.tolist()):
        top = absmax[i // 32].item()
        values += [table[byte // 16] * top, table[byte % 16] * top]
    return {"x": torch.tensor(values), "inputs as they were": [True] * 3}


# --------------------------------------------------------------- double_quantize


def double_cases(rng, hidden):
    table = dynamic_table()
    large = (table.abs() > 0.02).nonzero().flatten()  # entries far from each other

    def case(blocks, scale):
        """Pairs at equal distances from a mean, each near an entry of the table."""
        pairs = large[torch.randint(len(large), (blocks // 2,), generator=rng)]
        pairs[0] = 255  # the largest of the first 256
        d = table[pairs].double() * scale
        if blocks > 256:
            d[128:] *= 0.25  # the last block has a smaller absmax
            d[128] = 0.25 * scale
        mean = 1.5 * scale + uniform(rng, 0.0, 1.0)
        both = torch.stack([mean + d, mean - d], dim=1).flatten()
        return both.float(), table

    yield torch.tensor([1.0, 3.0]), table
    yield torch.tensor([2.0, 2.0, 2.0, 2.0]), table  # nothing is left but the mean
    yield torch.tensor([0.5, 4.5, 2.0, 3.0]), table
    yield torch.tensor([1.0, 3.0, 3.2]), table  # the farthest is below the mean
    yield torch.tensor([2 - 2**-14, 2 + 2**-14]), table  # small is not 0
    # two full blocks, the second one all zeros; another table, 0 at the index 128
    yield torch.tensor([1.0, 3.0] * 128 + [2.0] * 256), -table.flip(0)
    yield torch.tensor([1.0, 3.0] * 128 + [5.0]), table  # the mean is not a block's
    yield case(300, 1.0)
    for _ in range(3 if hidden else 1):
        yield case(2 * whole(rng, 3, 200), uniform(rng, 0.5, 4.0))


def drive_double(answer, absmax, code):
    """Codes, and what they stand for."""
    given = absmax.clone(), code.clone()
    q, nested, offset = answer(absmax, code)
    return {
        "codes": q,
        "nested absmax": nested,
        "offset": offset,
        "inputs as they were": [absmax.equal(given[0]), code.equal(given[1])],
    }


def reference_double(absmax, code):
    numbers, table = absmax.tolist(), code.tolist()
    offset = math.fsum(numbers) / len(numbers)
    codes, nested = [], []
    for start in range(0, len(numbers), 256):
        d = [v - offset for v in numbers[start : start + 256]]
        top = max(map(abs, d))
        codes += [nearest(v / top if top else 0.0, table) for v in d]
        nested.append(top)
    return {
        "codes": torch.tensor(codes, dtype=torch.uint8),
        "nested absmax": torch.tensor(nested),
        "offset": torch.tensor(offset),
        "inputs as they were": [True, True],
    }


# ---------------------------------------------------------------- training_bytes


def bytes_cases(rng, hidden):
    yield [(64, 64)], 100, "full", 8
    yield [(64, 64)], 100, "lora", 8
    yield [(64, 64)], 100, "qlora", 8
    yield [(1000, 1000), (64, 3)], 0, "qlora", 4  # odd numbers of blocks
    yield [(3, 5)], 7, "qlora", 1  # an odd number of weights
    yield [(256, 64), (64, 256)], 64, "qlora", 2
    for _ in range(4 if hidden else 1):
        for method in ("full", "lora", "qlora"):
            n = whole(rng, 1, 5)
            linears = [(whole(rng, 3, 900), whole(rng, 3, 900)) for _ in range(n)]
            yield linears, whole(rng, 0, 10_000), method, whole(rng, 1, 33)


def drive_bytes(answer, linears, other, method, r):
    """A whole number may be of any type, such as float or numpy's."""
    held = answer(linears, other, method, r)
    came = {name: held[name] for name in ("weights", "gradients", "optimizer")}
    return {name: int(n) if n == int(n) else n for name, n in came.items()}


def reference_bytes(linears, other, method, r):
    frozen = trained = stored = 0
    for N, K in linears:
        blocks = math.ceil(N * K / 64)
        stored += math.ceil(N * K / 2) + blocks + 4 * math.ceil(blocks / 256) + 4
        frozen += N * K
        trained += N * r + r * K
    if method == "full":
        trained, weights = frozen + other, 0
    else:
        weights = 2 * other + (stored if method == "qlora" else 2 * frozen)
    return {
        "weights": weights + 2 * trained,
        "gradients": 2 * trained,
        "optimizer": 12 * trained,
    }


LIBRARY = (
    *("posttrain_kernels.nf4", "nf4.quantize", "nf4.nearest", "nf4.reference"),
    *("nf4.dequantize", "functional.quantize_4bit", "functional.dequantize_4bit"),
    *("functional.quantize_nf4", "functional.quantize_blockwise"),
)
TASKS = {
    "absmax_quantize": Task(
        absmax_cases,
        drive_absmax,
        reference_absmax,
        MISTAKES["absmax_quantize"],
        forbid=("torch.quantize_per_tensor", "torch.quantize_per_channel"),
    ),
    "affine_quantize": Task(
        affine_cases,
        drive_affine,
        reference_affine,
        MISTAKES["affine_quantize"],
        forbid=("torch.quantize_per_tensor", "torch.quantize_per_channel"),
    ),
    "int8_linear": Task(
        int8_cases, drive_int8, reference_int8, MISTAKES["int8_linear"]
    ),
    "mixed_linear": Task(
        mixed_cases, drive_mixed, reference_mixed, MISTAKES["mixed_linear"]
    ),
    "nf4_encode": Task(
        encode_cases,
        drive_encode,
        reference_encode,
        MISTAKES["nf4_encode"],
        forbid=LIBRARY,
    ),
    "nf4_decode": Task(
        decode_cases,
        drive_decode,
        reference_decode,
        MISTAKES["nf4_decode"],
        forbid=LIBRARY,
    ),
    "double_quantize": Task(
        double_cases,
        drive_double,
        reference_double,
        MISTAKES["double_quantize"],
        forbid=LIBRARY,
    ),
    "training_bytes": Task(
        bytes_cases, drive_bytes, reference_bytes, MISTAKES["training_bytes"]
    ),
}
