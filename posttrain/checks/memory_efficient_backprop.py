"""Checks of the exercise `memory_efficient_backprop`.

References: `F.cross_entropy` and autograd in float64 with all logits at once; the bytes
of tensors as a PyTorch dispatch mode sees them; for `peak_bytes` a list of what lives.

Losses are named in a case and written in the code that drives the answer, so that an
answer meets functions it has not seen. Memory at full size is counted on the meta
device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from posttrain.checks.draws import uniform, whole
from posttrain.checks.mistakes.memory_efficient_backprop import MISTAKES
from posttrain.checks.task import Task

IGNORE = -100
FULL = (4 * 4096, 4096, 128 * 1024)  # N, d, V of the published challenge
SHARE = "at most a quarter of the plain head"


def normal(rng, *shape, scale=1.0, dtype=torch.float32):
    """Standard normal numbers, times `scale`."""
    numbers = torch.randn(*shape, generator=rng, dtype=torch.float64)
    return (numbers * scale).to(dtype)


def targets_of(rng, N, V, ignored=0.3):
    """N targets below V; each is IGNORE with this probability, the first never."""
    targets = torch.randint(V, (N,), generator=rng)
    hide = torch.rand(N, generator=rng) < ignored
    hide[0] = False
    return targets.masked_fill(hide, IGNORE)


# ------------------------------------------------------------------- ce_gradient


def gradient_cases(rng, hidden):
    yield torch.tensor([[0.0, 0.0]]), torch.tensor([1])
    yield torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 0.0]]), torch.tensor([0, 2])
    yield normal(rng, 3, 4), torch.tensor([IGNORE, 3, IGNORE])
    huge = torch.tensor([[900.0, 800.0, 0.0], [-900.0, -800.0, -850.0]])
    yield huge, torch.tensor([0, 2])
    yield normal(rng, 2, 120), torch.tensor([5, IGNORE])  # column -100 exists
    for _ in range(6 if hidden else 2):
        N, V = whole(rng, 2, 9), whole(rng, 2, 12)
        yield normal(rng, N, V, scale=3.0), targets_of(rng, N, V)


def drive_gradient(answer, logits, targets):
    given = logits.clone(), targets.clone()
    loss, G = answer(logits, targets)
    loss = loss if hasattr(loss, "shape") else logits.new_tensor(loss)  # a number
    kept = [x.equal(y) for x, y in zip(given, (logits, targets), strict=True)]
    return {"loss": loss, "G": G, "inputs as they were": kept}


def reference_gradient(logits, targets):
    exact = logits.double().requires_grad_()
    loss = F.cross_entropy(exact, targets, ignore_index=IGNORE)
    loss.backward()
    return {
        "loss": loss.detach().to(logits.dtype),
        "G": exact.grad.to(logits.dtype),
        "inputs as they were": [True, True],
    }


# ------------------------------------------------------- losses, for three tasks


def losses_of(rng, kind, N, V):
    """Row arguments of a loss of that name, N rows of each."""
    targets = torch.randint(V, (N,), generator=rng)
    if kind in ("cross-entropy", "capped", "z-loss"):
        return [targets_of(rng, N, V)]
    if kind in ("margin", "squared"):
        return [targets]
    if kind == "distillation":
        return [normal(rng, N, V).softmax(dim=-1)]
    if kind == "grpo":
        return [targets, normal(rng, N, scale=0.2) - 2.0, normal(rng, N)]
    return []  # entropy, sum


def reference_loss(kind, logits, rows):
    """The same losses as in the code that drives the answers, written once more."""
    if kind == "cross-entropy":
        return F.cross_entropy(logits, *rows, reduction="none")
    if kind == "capped":
        return F.cross_entropy(5 * (logits / 5).tanh(), *rows, reduction="none")
    if kind == "z-loss":
        nats = F.cross_entropy(logits, *rows, reduction="none")
        return nats + 0.1 * logits.logsumexp(-1).square()
    if kind == "margin":
        return F.multi_margin_loss(logits, *rows, reduction="none")
    if kind == "squared":
        return (logits - F.one_hot(rows[0], logits.shape[1])).square().mean(-1)
    if kind == "distillation":
        return F.kl_div(logits.log_softmax(-1), rows[0], reduction="none").sum(-1)
    if kind == "grpo":
        tokens, old, advantages = rows
        new = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        ratio = (new - old).exp()
        clipped = ratio.clamp(0.8, 1.2)
        return -torch.min(ratio * advantages, clipped * advantages)
    if kind == "entropy":
        logp = logits.log_softmax(-1)
        return -(logp.exp() * logp).sum(-1)
    return logits.sum(-1)


KINDS = (
    *("cross-entropy", "squared", "margin", "entropy", "distillation"),
    *("capped", "z-loss", "grpo"),
)


# -------------------------------------------------------------------- chunk_step


def step_cases(rng, hidden):
    def case(kind, n, d, V, dtype=torch.float32):
        x, weight = normal(rng, n, d, dtype=dtype), normal(rng, V, d, dtype=dtype)
        return kind, x, weight, losses_of(rng, kind, n, V), normal(rng, n)

    yield case("cross-entropy", 1, 1, 2)
    yield case("cross-entropy", 3, 2, 4)
    yield case("squared", 2, 3, 3)
    yield case("margin", 4, 2, 5)
    yield case("cross-entropy", 4, 8, 6, torch.bfloat16)
    for kind in KINDS if hidden else KINDS[-2:]:
        yield case(kind, whole(rng, 1, 6), whole(rng, 1, 6), whole(rng, 2, 9))


def drive_step(answer, kind, x, weight, rows, upstream):
    """As inside of the forward pass of a Function: grad mode is off."""
    import torch
    import torch.nn.functional as F

    def nats(logits, targets):
        return F.cross_entropy(logits, targets, reduction="none")

    def policy(logits, tokens, old, advantages):
        new = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        ratio = (new - old).exp()
        return -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)

    losses = {
        "cross-entropy": nats,
        "capped": lambda z, y: nats(5 * torch.tanh(z / 5), y),
        "z-loss": lambda z, y: nats(z, y) + 0.1 * z.logsumexp(-1).square(),
        "margin": lambda z, y: F.multi_margin_loss(z, y, reduction="none"),
        "squared": lambda z, y: (z - F.one_hot(y, z.shape[1])).square().mean(-1),
        "distillation": lambda z, p: (
            torch.special.xlogy(p, p).sum(-1) - (p * z.log_softmax(-1)).sum(-1)
        ),
        "grpo": policy,
        "entropy": lambda z: -(z.softmax(-1) * z.log_softmax(-1)).sum(-1),
    }
    seen = set()

    def loss(logits, *rows):
        seen.add(str(logits.dtype))
        return losses[kind](logits, *rows)

    given = [t.clone() for t in (x, weight, *rows, upstream)]
    x.requires_grad_(), weight.requires_grad_()
    with torch.no_grad():
        out, dx, dw = answer(x, weight, loss, tuple(rows), upstream)
    return {
        "the loss saw": sorted(seen),
        "outputs": out.to(x.dtype),
        "outputs need a gradient": out.requires_grad,
        "dx": dx,
        "dw": dw.to(x.dtype),
        "dtype of dw": str(dw.dtype),
        "x.grad and weight.grad": [x.grad, weight.grad],
        "inputs as they were": all(
            map(torch.equal, given, (x, weight, *rows, upstream))
        ),
    }


def reference_step(kind, x, weight, rows, upstream):
    dtype = x.dtype
    x, weight = (t.double().requires_grad_() for t in (x, weight))
    out = reference_loss(kind, x @ weight.mT, rows)
    (out * upstream).sum().backward()
    return {
        "the loss saw": ["torch.float32"],
        "outputs": out.detach().to(dtype),
        "outputs need a gradient": False,
        "dx": x.grad.to(dtype),
        "dw": weight.grad.to(dtype),
        "dtype of dw": "torch.float32",
        "x.grad and weight.grad": [None, None],
        "inputs as they were": True,
    }


# -------------------------------------------------------------------- peak_bytes


def bytes_cases(rng, hidden):
    yield 8, 2, 4, 2, 2, True
    yield 8, 2, 4, 2, 2, False
    yield 8, 2, 4, 2, 4, True
    yield 8, 16, 4, 1, 2, True  # the end is the worst moment
    yield 8, 16, 4, 1, 4, True  # nothing to cast
    yield 8, 16, 4, 1, 2, False  # here neither
    yield 3, 2, 5, 10, 2, True  # fewer rows than a chunk would take
    yield *FULL, 512, 2, True
    yield *FULL, 1024, 2, False
    for _ in range(8 if hidden else 2):
        N, d, V = whole(rng, 1, 200), whole(rng, 1, 60), whole(rng, 2, 300)
        n, size = whole(rng, 1, 250), 2 * whole(rng, 1, 3)
        yield N, d, V, n, size, whole(rng, 0, 2) == 1


def drive_bytes(answer, N, d, V, n, size, trained):
    return answer(N, d, V, n, size, trained)


def reference_bytes(N, d, V, n, size, trained):
    rows = len(range(N)[:n])
    always = [(N, d, size)] + [(V, d, 4)] * trained
    chunk = [(rows, V, size)] + [(rows, V, 4)] * 3
    end = [(V, d, size)] * (trained and size == 2)
    return max(sum(a * b * c for a, b, c in always + now) for now in (chunk, end))


# ------------------------------------------------------- memory_efficient_linear


def linear_cases(rng, hidden):
    def case(kind, N, d, V, n, dtype=torch.float32, watch=""):
        x, weight = normal(rng, N, d, dtype=dtype), normal(rng, V, d, dtype=dtype)
        rows = losses_of(rng, kind, N, V)
        if kind == "cross-entropy":  # the mean of what counts
            counted = rows[0] != IGNORE
            weights = counted.float() / counted.sum()
        else:
            weights = torch.rand(N, generator=rng) / N
        upstream = uniform(rng, -3.0, -1.5)
        return kind, x, weight, rows, weights, n, upstream, watch

    yield case("cross-entropy", 1, 1, 2, 1)
    yield case("cross-entropy", 4, 2, 3, 2)
    yield case("cross-entropy", 5, 3, 4, 2)  # the last chunk is shorter
    yield case("cross-entropy", 7, 3, 4, 3)
    yield case("squared", 3, 2, 4, 8)  # one chunk holds all
    yield case("margin", 6, 3, 5, 4)
    yield case("distillation", 5, 4, 6, 3)
    yield case("grpo", 7, 3, 5, 2, watch="twice")
    yield case("cross-entropy", 9, 8, 6, 4, torch.bfloat16)
    yield case("cross-entropy", 20, 16, 64, 3, watch="frozen")
    yield case("z-loss", 64, 4, 64, 4, watch="peak")
    ones = torch.ones(81, 2, dtype=torch.bfloat16)
    large = ones.clone()
    large[40] = 256.0  # dW is 336, but beside 256 bfloat16 loses a 1
    yield "sum", large, ones[:3], [], torch.ones(81), 1, 1.0, ""
    yield "cross-entropy", torch.tensor(FULL), None, [], None, 1024, 1.0, "full"
    for kind in KINDS if hidden else ("entropy",):
        N, n = whole(rng, 2, 12), whole(rng, 1, 6)
        yield case(kind, N, whole(rng, 1, 6), whole(rng, 2, 9), n)


def drive_linear(answer, kind, hidden, weight, rows, weights, n, upstream, watch):
    """Loss and gradients; what the loss was given; where it is watched, the memory."""
    import weakref

    import torch
    import torch.nn.functional as F

    def nats(logits, targets):
        return F.cross_entropy(logits, targets, reduction="none")

    def policy(logits, tokens, old, advantages):
        new = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        ratio = (new - old).exp()
        return -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)

    losses = {
        "cross-entropy": nats,
        "capped": lambda z, y: nats(5 * torch.tanh(z / 5), y),
        "z-loss": lambda z, y: nats(z, y) + 0.1 * z.logsumexp(-1).square(),
        "margin": lambda z, y: F.multi_margin_loss(z, y, reduction="none"),
        "squared": lambda z, y: (z - F.one_hot(y, z.shape[1])).square().mean(-1),
        "distillation": lambda z, p: (
            torch.special.xlogy(p, p).sum(-1) - (p * z.log_softmax(-1)).sum(-1)
        ),
        "grpo": policy,
        "entropy": lambda z: -(z.softmax(-1) * z.log_softmax(-1)).sum(-1),
        "sum": lambda z: z.sum(-1),
    }
    seen, most = set(), [0]

    def loss(logits, *rows):
        seen.add(str(logits.dtype))
        most[0] = max(most[0], len(logits))
        return losses[kind](logits, *rows)

    def plain(hidden, weight, loss, rows, weights, n):
        return (weights * loss((hidden @ weight.mT).float(), *rows)).sum()

    def leaves(hidden, weight):
        weight = weight.clone().requires_grad_(watch != "frozen")
        return hidden.clone().requires_grad_(), weight

    def step(head, x, w, rows, weights):
        total = head(x, w, loss, tuple(rows), weights, n)
        (total * upstream).backward(retain_graph=watch == "twice")
        if watch == "twice":
            (total * upstream).backward()
        return total, x.grad, w.grad

    def watched(head, hidden, weight, *given):
        """Peak and largest bytes of the tensors that a step makes."""
        from torch.utils._python_dispatch import TorchDispatchMode

        known, size = weakref.WeakSet(), {"now": 0, "peak": 0, "largest": 0}

        def gone(nbytes):
            size["now"] -= nbytes

        def note(storage):
            if storage not in known:
                known.add(storage)
                size["now"] += storage.nbytes()
                size["peak"] = max(size["peak"], size["now"])
                size["largest"] = max(size["largest"], storage.nbytes())
                weakref.finalize(storage, gone, storage.nbytes())

        class Meter(TorchDispatchMode):
            def __torch_dispatch__(self, op, types, args=(), kwargs=None):
                for x in args:
                    if isinstance(x, torch.Tensor):
                        known.add(x.untyped_storage())
                result = op(*args, **(kwargs or {}))
                for x in result if isinstance(result, (tuple, list)) else [result]:
                    if isinstance(x, torch.Tensor):
                        note(x.untyped_storage())
                return result

        x, w = leaves(hidden, weight)
        with Meter():
            step(head, x, w, *given)
        return size

    told = "not watched"
    if watch in ("full", "peak"):
        if watch == "full":
            N, d, V = hidden.tolist()
            hidden = torch.zeros(N, d, dtype=torch.bfloat16, device="meta")
            weight = torch.zeros(V, d, dtype=torch.bfloat16, device="meta")
            rows = [torch.zeros(N, dtype=torch.int64, device="meta")]
            weights = torch.zeros(N, device="meta")
        given = hidden, weight, rows, weights
        share = watched(answer, *given)["peak"] / watched(plain, *given)["peak"]
        fits = "at most a quarter of the plain head"
        told = fits if share <= 0.25 else f"{share:.0%} of the plain head"
        seen.clear()
        most[0] = 0
    if watch == "frozen":
        largest = watched(answer, hidden, weight, rows, weights)["largest"]
        fits = "nothing as large as the frozen weight"
        told = fits if largest < weight.nbytes else f"a tensor of {largest} bytes"
    if watch == "full":
        return {"memory": told}
    x, w = leaves(hidden, weight)
    given = [t.clone() for t in (*rows, weights)]
    total, dx, dw = step(answer, x, w, rows, weights)
    given, now = (hidden, weight, *given), (x, w, *rows, weights)
    return {
        "the loss saw": sorted(seen),
        "rows at a time": f"at most {n}" if most[0] <= n else str(most[0]),
        "loss": total.to(hidden.dtype),
        "shape and dtype of the loss": f"{list(total.shape)} {total.dtype}",
        "dx": dx,
        "dw": dw,
        "memory": told,
        "inputs as they were": all(map(torch.equal, given, now)),
    }


def reference_linear(kind, hidden, weight, rows, weights, n, upstream, watch):
    if watch == "full":
        return {"memory": SHARE}
    x, w = hidden.double().requires_grad_(), weight.double().requires_grad_()
    total = (weights * reference_loss(kind, x @ w.mT, rows)).sum()
    (total * upstream * (2 if watch == "twice" else 1)).backward()
    told = {"peak": SHARE, "frozen": "nothing as large as the frozen weight"}
    return {
        "the loss saw": ["torch.float32"],
        "rows at a time": f"at most {n}",
        "loss": total.detach().to(hidden.dtype),
        "shape and dtype of the loss": "[] torch.float32",
        "dx": x.grad.to(hidden.dtype),
        "dw": None if watch == "frozen" else w.grad.to(weight.dtype),
        "memory": told.get(watch, "not watched"),
        "inputs as they were": True,
    }


# --------------------------------------------------------------------- grpo_loss


def grpo_cases(rng, hidden):
    def case(lengths, T, d=3, V=5, clip=0.2, beta=0.1, mask=None):
        """By default, answers begin at place 0, and 0 stands behind them."""
        B, anywhere = len(lengths), mask
        mask = torch.arange(T) < torch.tensor(lengths)[:, None]
        x, weight = normal(rng, B, T, d), normal(rng, V, d)
        tokens = torch.randint(V, (B, T), generator=rng)
        new = (x @ weight.mT).log_softmax(-1).gather(2, tokens[..., None])[..., 0]
        old, ref = (new + normal(rng, B, T, scale=0.4) for _ in range(2))
        if anywhere is not None:
            return x, weight, tokens, old, ref, normal(rng, B), anywhere, clip, beta
        old, ref = old.masked_fill(~mask, 0.0), ref.masked_fill(~mask, 0.0)
        tokens = tokens.masked_fill(~mask, 0)
        return x, weight, tokens, old, ref, normal(rng, B), mask, clip, beta

    yield case([1], 1, d=1, V=2)
    yield case([2, 2], 2, beta=0.0)
    yield case([1, 3], 3)  # answers of different lengths
    yield case([4, 0, 2], 4)  # one without a token
    yield case([5, 5, 2, 1], 5, beta=1.0, clip=0.1)
    yield case([3, 6], 6, V=120)
    gaps = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0]]).bool()
    yield case([2, 2, 2], 4, mask=gaps)
    for _ in range(4 if hidden else 1):
        T = whole(rng, 2, 7)
        yield case([whole(rng, 1, T + 1) for _ in range(whole(rng, 2, 5))], T)


def drive_grpo(answer, hidden, weight, tokens, old, ref, advantages, mask, clip, beta):
    """Gives the answer a head of three rows at a time, differentiated as usual."""

    sizes = set()

    def head(x, weight, loss, rows, row_weights):
        N = len(x)
        sizes.update(len(row) == N for row in (*rows, row_weights))
        total = x.new_zeros(())
        for i in range(0, N, 3):
            logits = x[i : i + 3] @ weight.mT
            given = [row[i : i + 3] for row in rows]
            out = loss(logits, *given)
            sizes.add(out.shape == logits.shape[:1])
            total = total + (row_weights[i : i + 3] * out).sum()
        return total

    inputs = hidden, weight, tokens, old, ref, advantages, mask
    given = [t.clone() for t in inputs]
    x, w = hidden.requires_grad_(), weight.requires_grad_()
    loss = answer(head, x, w, tokens, old, ref, advantages, mask, clip, beta)
    loss.backward()
    return {
        "loss": loss.to(hidden.dtype),
        "dx": x.grad,
        "dw": w.grad,
        "as many rows as hidden states, one number a row": sorted(sizes),
        "inputs as they were": all(
            x.equal(y) for x, y in zip(given, inputs, strict=True)
        ),
    }


def reference_grpo(hidden, weight, tokens, old, ref, advantages, mask, clip, beta):
    x, w = hidden.double().requires_grad_(), weight.double().requires_grad_()
    logp = (x @ w.mT).log_softmax(-1)
    total = x.new_zeros(())
    for b in range(len(mask)):
        terms = []
        for t in mask[b].nonzero()[:, 0].tolist():
            new = logp[b, t, tokens[b, t]]
            ratio = torch.exp(new - old[b, t])
            bounded = ratio.clamp(1 - clip, 1 + clip)
            kept = torch.min(ratio * advantages[b], bounded * advantages[b])
            gap = ref[b, t] - new
            terms.append(beta * (gap.exp() - gap - 1) - kept)
        if terms:
            total = total + torch.stack(terms).mean()
    total = total / len(mask)
    total.backward()
    return {
        "loss": total.detach().to(hidden.dtype),
        "dx": x.grad.to(hidden.dtype),
        "dw": w.grad.to(hidden.dtype),
        "as many rows as hidden states, one number a row": [True],
        "inputs as they were": True,
    }


# ----------------------------------------------------------- tiled_cross_entropy


def tiled_cases(rng, hidden):
    def case(N, d, V, words, scale=1.0, dtype=torch.float32, most=0):
        x = normal(rng, N, d, scale=scale, dtype=dtype)
        return x, normal(rng, V, d, dtype=dtype), targets_of(rng, N, V), words, most

    yield case(1, 1, 2, 1)
    yield case(2, 2, 4, 2)
    yield case(3, 2, 5, 2)  # the last tile has fewer words
    yield case(3, 2, 5, 9)  # one tile holds all
    yield case(4, 3, 7, 3, scale=300.0, dtype=torch.float64)  # huge logits
    rising = torch.arange(1.0, 7.0, dtype=torch.float64)[:, None]
    yield torch.full_like(rising[:2], 400.0), rising, torch.tensor([0, 5]), 2, 0
    yield -torch.full_like(rising[:2], 400.0), rising, torch.tensor([0, 5]), 2, 0
    yield torch.full_like(rising[:2], 400.0), -rising, torch.tensor([0, 5]), 2, 0
    low = torch.tensor([[-400.0], [-300.0]])  # in float32 e^-300 is 0
    yield low, rising.float(), torch.tensor([5, 0]), 2, 0
    yield case(6, 2, 150, 40)  # column -100 exists
    N, V, words = 16, 128, 8
    yield case(N, 2, V, words, most=4 * N * words + 1)
    for _ in range(4 if hidden else 1):
        N, V = whole(rng, 1, 8), whole(rng, 2, 20)
        yield case(N, whole(rng, 1, 5), V, whole(rng, 1, 8))


def drive_tiled(answer, hidden, weight, targets, words, most):
    """Losses; where `most` bytes are allowed, what the largest tensor took."""
    import torch

    told = "not watched"
    before = hidden.clone(), weight.clone(), targets.clone()
    if not most:
        losses = answer(hidden, weight, targets, words)
    else:
        from torch.utils._python_dispatch import TorchDispatchMode

        given = {x.untyped_storage()._cdata for x in (hidden, weight, targets)}

        class Largest(TorchDispatchMode):
            bytes = 0

            def __torch_dispatch__(self, op, types, args=(), kwargs=None):
                result = op(*args, **(kwargs or {}))
                for x in result if isinstance(result, (tuple, list)) else [result]:
                    if isinstance(x, torch.Tensor):
                        storage = x.untyped_storage()
                        if storage._cdata not in given:
                            self.bytes = max(self.bytes, storage.nbytes())
                return result

        with Largest() as largest:
            losses = answer(hidden, weight, targets, words)
        limit = 8 * len(hidden) * words  # a tile in float64, or of indices
        fits = "no larger than a tile"
        told = fits if largest.bytes <= limit else f"{largest.bytes} bytes"
    now = hidden, weight, targets
    kept = [x.equal(y) for x, y in zip(before, now, strict=True)]
    return {"losses": losses, "largest tensor": told, "inputs as they were": kept}


def reference_tiled(hidden, weight, targets, words, most):
    logits = hidden.double() @ weight.double().mT
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    told = "no larger than a tile" if most else "not watched"
    return {
        "losses": losses.to(hidden.dtype),
        "largest tensor": told,
        "inputs as they were": [True] * 3,
    }


TASKS = {
    "ce_gradient": Task(
        gradient_cases,
        drive_gradient,
        reference_gradient,
        MISTAKES["ce_gradient"],
        forbid=("torch.autograd.grad", "Tensor.backward", "functional.jacobian"),
    ),
    "chunk_step": Task(step_cases, drive_step, reference_step, MISTAKES["chunk_step"]),
    "peak_bytes": Task(
        bytes_cases, drive_bytes, reference_bytes, MISTAKES["peak_bytes"]
    ),
    "memory_efficient_linear": Task(
        linear_cases,
        drive_linear,
        reference_linear,
        MISTAKES["memory_efficient_linear"],
    ),
    "grpo_loss": Task(grpo_cases, drive_grpo, reference_grpo, MISTAKES["grpo_loss"]),
    "tiled_cross_entropy": Task(
        tiled_cases, drive_tiled, reference_tiled, MISTAKES["tiled_cross_entropy"]
    ),
}
