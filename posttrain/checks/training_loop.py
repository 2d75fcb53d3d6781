"""Checks of the exercise `training_loop`.

References: counts written from the layers' shapes (mfu), the same permutation cut by
another rule (indices), all micro-batches as one batch (accumulate), the gradients as
one vector (update), powers of two counted from the verdicts (LossScaler), what a disk
must look like (save_atomically), the run that is never cut (Loop).
None of them imports `torch.optim`, which would cost each judge 1.7 CPU-seconds.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch

from posttrain.checks.draws import uniform, whole
from posttrain.checks.mistakes.training_loop import MISTAKES
from posttrain.checks.task import TOLERANCE, Task

# ---------------------------------------------------------------- mfu


def mfu_cases(rng, hidden):
    """(N, L, C, T, tokens a second, peak)"""
    yield 1_000_000, 1, 64, 0, 1000.0, 1e10  # no attention at all
    yield 1, 2, 8, 16, 1e6, 1e10  # next to nothing but attention
    yield 7_000_000_000, 32, 4096, 4096, 9000.0, 989e12
    for _ in range(4 if hidden else 2):
        N, L, C = whole(rng, 1000, 10**6), whole(rng, 1, 40), whole(rng, 1, 999)
        T, speed = whole(rng, 1, 9999), float(whole(rng, 1, 10**6))
        yield N, L, C, T, speed, speed * (6 * N + 12 * L * C * T) * uniform(rng, 2, 9)


def drive_mfu(answer, N, L, C, T, speed, peak):
    return float(answer(N, L, C, T, speed, peak))


def reference_mfu(N, L, C, T, speed, peak):
    """By passes: one forward and two of that size backward."""
    scores = values = 2 * T * C  # a query against T keys, then T weights on values
    forward = 2 * N + L * (scores + values)
    return (forward + 2 * forward) * speed / peak


# ---------------------------------------------------------------- indices


def indices_cases(rng, hidden):
    """(n, B, seed)"""
    yield 4, 2, 0
    yield 5, 2, 1  # one row is left over in each epoch
    yield 3, 3, 0  # every step is an epoch
    yield 6, 1, 2
    for _ in range(3 if hidden else 1):
        B = whole(rng, 2, 6)
        yield B * whole(rng, 2, 5) + whole(rng, 0, B), B, whole(rng, 0, 10**6)


def drive_indices(answer, n, B, seed):
    """Asked out of order and twice, as after a crash; NumPy's own state is watched."""
    import numpy as np

    steps = [7, 0, 1, 2, 3, 0, 12, 2]
    np.random.seed(0)
    before = np.random.random()
    np.random.seed(0)
    came = [[int(i) for i in answer(step, n, B, seed)] for step in steps]
    kept = bool(np.random.random() == before)
    return {"rows": came, "NumPy's global state kept": kept}


def reference_indices(n, B, seed):
    """All epochs laid end to end, without what is left over of each."""
    steps, rows = [7, 0, 1, 2, 3, 0, 12, 2], []
    for epoch in range(13):
        order = np.random.default_rng((seed, epoch)).permutation(n).tolist()
        rows += [order[i : i + B] for i in range(0, n - B + 1, B)]
    return {"rows": [rows[step] for step in steps], "NumPy's global state kept": True}


# ---------------------------------------------------------------- accumulate


def accumulate_cases(rng, hidden):
    """(micro-batches of inputs and targets, embedding (V, C), read-out (V, C))"""

    def draw(counts, B=2, T=4, V=5, C=3):
        micros = []
        for count in counts:
            inputs = torch.randint(V, (B, T), generator=rng)
            targets = torch.randint(V, (B, T), generator=rng)
            drop = torch.randperm(B * T, generator=rng)[count:]
            targets.view(-1)[drop] = -100
            micros.append((inputs, targets))
        weights = [torch.randn(V, C, generator=rng).double() for _ in range(2)]
        return micros, *weights

    yield draw([8])
    yield draw([3])
    yield draw([8, 8])
    yield draw([8, 2])
    yield draw([1, 8, 3])
    yield draw([5, 0, 2])  # one micro-batch is all prompt or padding
    for _ in range(3 if hidden else 1):
        yield draw([whole(rng, 1, 12) for _ in range(4)], B=3, V=7)


def drive_accumulate(answer, micros, embedding, read_out):
    """The loss, the gradients, and how many forward passes waited for backward."""
    import torch

    alive = [0]

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Parameter(embedding.clone())
            self.read_out = torch.nn.Parameter(read_out.clone())

        def forward(self, inputs):
            alive.append(alive[-1] + 1)
            hidden = self.embedding[inputs].tanh()
            hidden.register_hook(lambda grad: alive.append(alive[-1] - 1))
            return hidden @ self.read_out.T

    model = Model()
    loss = answer(model, micros)
    grads = [p.grad.clone() for p in model.parameters()]
    kept = all(
        p.detach().equal(w)
        for p, w in zip(model.parameters(), (embedding, read_out), strict=True)
    )
    return {
        "loss": float(loss),
        "gradients": grads,
        "graphs alive at once": max(alive),
        "weights unchanged": kept,
    }


def reference_accumulate(micros, embedding, read_out):
    """All rows as one batch; the gradient in closed form."""
    inputs = torch.cat([inputs for inputs, _ in micros]).flatten()
    targets = torch.cat([targets for _, targets in micros]).flatten()
    inputs, targets = inputs[targets != -100], targets[targets != -100]
    hidden = embedding[inputs].tanh()  # (n, C)
    log_p = (hidden @ read_out.T).log_softmax(-1)  # (n, V)
    n = len(targets)
    loss = -log_p[torch.arange(n), targets].mean().item()
    d_logits = log_p.exp()
    d_logits[torch.arange(n), targets] -= 1
    d_logits /= n
    d_hidden = (d_logits @ read_out) * (1 - hidden**2)
    d_embedding = torch.zeros_like(embedding).index_add_(0, inputs, d_hidden)
    return {
        "loss": loss,
        "gradients": [d_embedding, d_logits.T @ hidden],
        "graphs alive at once": 1,
        "weights unchanged": True,
    }


# ---------------------------------------------------------------- update


def update_cases(rng, hidden):
    """(weights, rows of gradients, initial rates, factors, max_norm)"""
    nan, inf = float("nan"), float("inf")

    def draw(rows, shapes=((2,), (3, 2)), size=1.0, bad=None, max_norm=1.0):
        weights = [torch.randn(s, generator=rng).double() for s in shapes]
        grads = [
            [size * torch.randn(s, generator=rng).double() for s in shapes]
            for _ in range(rows)
        ]
        if bad is not None:
            grads[0][-1].view(-1)[0] = bad
        rates = [0.1 * (i + 1) for i in range(len(shapes))]
        factors = [(t + 1) / 2 for t in range(rows)]
        return weights, grads, rates, factors, max_norm

    one = torch.ones(1, dtype=torch.float64)
    yield [one], [[3 * one]], [0.5], [1.0], 1.0
    yield [one], [[one / 2], [one / 2], [one / 2]], [0.5], [0.5, 1.0, 0.25], 1.0
    yield draw(1, size=0.01)  # short enough
    yield draw(2, size=0.0)  # all zero
    yield draw(2, size=5.0)
    yield draw(2, bad=nan)
    yield draw(2, bad=inf)
    for _ in range(3 if hidden else 1):
        yield draw(4, shapes=((2, 2), (3,), (1,)), size=2.0, max_norm=0.5)


def drive_update(answer, weights, grads, rates, factors, max_norm):
    """One update a row; the optimizer is plain gradient descent."""
    import torch

    params = [w.clone().requires_grad_() for w in weights]

    class Descent:
        def __init__(self):
            self.steps = 0
            self.param_groups = [
                {"params": [p], "lr": lr, "initial_lr": lr}
                for p, lr in zip(params, rates, strict=True)
            ]

        @torch.no_grad()
        def step(self):
            self.steps += 1
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.sub_(group["lr"] * p.grad)

        def zero_grad(self, set_to_none=True):
            for p in params:
                p.grad = None

    optimizer, history = Descent(), []
    for row, factor in zip(grads, factors, strict=True):
        for p, g in zip(params, row, strict=True):  # added, as backward does
            p.grad = g.clone() if p.grad is None else p.grad + g
        norm = answer(optimizer, factor, max_norm)
        history.append(
            {
                "norm": float(norm),
                "weights": [p.detach().clone() for p in params],
                "rates": [float(group["lr"]) for group in optimizer.param_groups],
                "steps taken": optimizer.steps,
            }
        )
    return history


def reference_update(weights, grads, rates, factors, max_norm):
    """The gradients as one vector; a vector that is not finite moves nothing."""
    sizes, shapes = [w.numel() for w in weights], [w.shape for w in weights]
    w, steps, history = torch.cat([w.flatten() for w in weights]), 0, []
    lr = torch.tensor(rates).double().repeat_interleave(torch.tensor(sizes))
    for row, factor in zip(grads, factors, strict=True):
        g = torch.cat([g.flatten() for g in row])
        norm = math.sqrt((g * g).sum().item())
        if math.isfinite(norm):
            shorter = max_norm / norm if norm > max_norm else 1.0
            w, steps = w - factor * lr * g * shorter, steps + 1
        parts = zip(w.split(sizes), shapes, strict=True)
        history.append(
            {
                "norm": norm,
                "weights": [part.reshape(shape) for part, shape in parts],
                "rates": [factor * rate for rate in rates],
                "steps taken": steps,
            }
        )
    return history


# ---------------------------------------------------------------- LossScaler


def scaler_cases(rng, hidden):
    """(first scale, interval, rows of scaled gradients)"""
    inf, nan = float("inf"), float("nan")

    def rows(text):
        """g: finite, i: an infinity, n: a NaN; the bad one may be anywhere."""
        made = []
        for letter in text:
            row = [torch.randn(2, generator=rng), torch.randn(3, generator=rng)]
            if letter != "g":
                row[whole(rng, 0, 2)][whole(rng, 0, 2)] = {"i": inf, "n": nan}[letter]
            made.append(row)
        return made

    yield 8.0, 2, rows("g")
    yield 8.0, 2, rows("gg")
    yield 8.0, 2, rows("i")
    yield 8.0, 2, rows("gigg")  # an overflow starts the count anew
    yield 4.0, 3, rows("ggggggg")
    yield 2.0, 1, rows("gng")
    yield 1024.0, 2, rows("iiiggnggg")
    yield 1.0, 2, rows("in")  # a scale may be below 1
    yield 2.0**24, 1, rows("gg")  # and very large
    for _ in range(3 if hidden else 1):
        picks = torch.randint(4, (12,), generator=rng).tolist()
        yield 2.0 ** whole(rng, 1, 12), 2, rows("".join("ggin"[i] for i in picks))


def drive_scaler(answer, scale, interval, rows):
    """The verdict on each row, the scale after it, the gradients of good rows."""
    scaler, history = answer(scale, interval), []
    for row in rows:
        grads = [g.clone() for g in row]
        good = scaler.unscale(list(grads))  # in place: the tensors, not the list
        left = [g.clone() for g in grads] if good else None
        history.append((bool(good), float(scaler.scale), left))
    return history


def reference_scaler(scale, interval, rows):
    """Powers of two, counted from the verdicts so far."""
    history, power, run = [], 0, 0
    for row in rows:
        good = bool(torch.cat(row).isfinite().all())
        used = scale * 2.0**power
        run = run + 1 if good else 0
        power += -1 if not good else int(run > 0 and run % interval == 0)
        left = [g / used for g in row] if good else None
        history.append((good, scale * 2.0**power, left))
    return history


# ---------------------------------------------------------------- save_atomically


def save_cases(rng, hidden):
    """(what is there, what to write, the fault)"""

    def draw(n):
        return bytes(torch.randint(256, (n,), generator=rng).tolist())

    yield None, draw(5), "none"
    yield draw(4), draw(9), "none"
    yield draw(3), b"", "none"
    yield draw(4), draw(9), "disk full"
    yield draw(4), draw(6), "power cut"
    yield None, draw(6), "disk full"
    for _ in range(3 if hidden else 1):
        fault = ("none", "disk full", "power cut")[whole(rng, 0, 3)]
        yield draw(whole(rng, 1, 50)), draw(whole(rng, 1, 50)), fault


def drive_save(answer, old, new, fault):
    """Writes into a folder of its own; `os` is made to fail, and is watched."""
    import errno
    import os
    import tempfile

    events, real = [], {n: getattr(os, n) for n in ("fsync", "replace", "rename")}

    def fsync(handle):
        number = handle if isinstance(handle, int) else handle.fileno()
        arrived = os.fstat(number).st_size == len(new)
        events.append(f"flush, all bytes: {arrived}")
        if fault == "disk full":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real["fsync"](handle)

    def move(source, target, **options):
        source = os.fspath(source)
        here = os.path.dirname(source) == os.path.dirname(os.fspath(target))
        with open(source, "rb") as file:
            whole = file.read() == new
        events.append(f"rename, same folder: {here}, whole: {whole}")
        if fault == "power cut":
            raise OSError(errno.EIO, "Input/output error")
        return real["replace"](source, target, **options)

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "step_5.pt")
        if old is not None:
            with open(path, "wb") as file:
                file.write(old)
        os.fsync, os.replace, os.rename = fsync, move, move
        try:
            said = answer(path, new)
        except OSError as error:
            said = f"raised {errno.errorcode[error.errno]}"
        finally:
            os.fsync, os.replace, os.rename = (real[n] for n in real)
        content = None
        if os.path.exists(path):
            with open(path, "rb") as file:
                content = file.read()
        left = sorted(os.listdir(folder))
    order = []
    for event in events:  # more flushes do no harm: of the folder, after the rename
        if not event.startswith("flush") or not order:
            order.append(event)
    return {"returned": said, "content": content, "files": left, "order": order}


def reference_save(old, new, fault):
    digest = hashlib.sha256(new).hexdigest()
    code = {"none": digest, "disk full": "raised ENOSPC", "power cut": "raised EIO"}
    content = new if fault == "none" else old
    order = ["flush, all bytes: True", "rename, same folder: True, whole: True"]
    return {
        "returned": code[fault],
        "content": content,
        "files": [] if content is None else ["step_5.pt"],
        "order": order[:1] if fault == "disk full" else order,
    }


# ---------------------------------------------------------------- Loop


def loop_cases(rng, hidden):
    """(first weights, rows of inputs and aims, lr, momentum, p, cut)"""

    def draw(n, steps, cut, lr=0.1, momentum=0.9, p=0.5):
        w = torch.randn(n, generator=rng).double()
        x = torch.randn(steps, n, generator=rng).double()
        y = torch.randn(steps, generator=rng).double()
        return w, x, y, lr, momentum, p, cut

    yield draw(1, 3, 1, p=0.0, momentum=0.0)
    yield draw(2, 4, 2, p=0.0)
    yield draw(4, 5, 3)
    yield draw(3, 4, 0, momentum=0.5)  # saved before the first step
    for _ in range(3 if hidden else 1):
        yield draw(6, 8, whole(rng, 2, 7), momentum=0.8, p=0.3)


def drive_loop(answer, w, x, y, lr, momentum, p, cut):
    """Saves at `cut` and goes on; then two fresh loops resume from the same file."""
    import io

    import torch

    def advance(loop, steps):
        losses = []
        for t in steps:
            torch.rand(1)  # somebody else draws from the global generator
            losses.append(float(loop.train_step(x[t], y[t])))
        return losses

    first = answer(w.clone(), lr, momentum, p, seed=1)
    losses = advance(first, range(cut))
    state = first.state_dict()
    losses += advance(first, range(cut, len(x)))  # must not change what was saved
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    again = []
    for seed in (2, 3):
        resumed = answer(torch.zeros_like(w), lr, momentum, p, seed=seed)
        advance(resumed, range(2))  # it had a life before
        resumed.load_state_dict(loaded)
        steps = (resumed.step, advance(resumed, range(cut, len(x))), resumed.step)
        again.append((steps, resumed.w.clone()))
    return {"undisturbed": losses, "weights": first.w.clone(), "resumed": again}


def reference_loop(w, x, y, lr, momentum, p, cut):
    """The run that was never cut."""
    generator = torch.Generator().manual_seed(1)
    losses, at, u = [], [w.clone()], torch.zeros_like(w)
    for t in range(len(x)):
        keep = (torch.rand(len(w), generator=generator) >= p).double() / (1 - p)
        error = float((at[-1] * x[t] * keep).sum() - y[t])
        losses.append(error**2)
        u = momentum * u + 2 * error * x[t] * keep
        at.append(at[-1] - lr / (1 + t) * u)
    steps = (cut, losses[cut:], len(x))
    return {
        "undisturbed": losses,
        "weights": at[-1],
        "resumed": [(steps, at[-1])] * 2,
    }


TASKS = {
    "mfu": Task(mfu_cases, drive_mfu, reference_mfu, MISTAKES["mfu"]),
    "indices": Task(
        indices_cases, drive_indices, reference_indices, MISTAKES["indices"]
    ),
    "accumulate": Task(
        accumulate_cases,
        drive_accumulate,
        reference_accumulate,
        MISTAKES["accumulate"],
        # Whoever takes the softmax in float32, as is usual, is right to 1e-7.
        tolerance={**TOLERANCE, "float64": 1e-6},
    ),
    "update": Task(
        update_cases,
        drive_update,
        reference_update,
        MISTAKES["update"],
        # PyTorch divides by the length + 1e-6: a share of at most 2e-6 at length 0.5.
        tolerance={**TOLERANCE, "float64": 1e-5},
    ),
    "LossScaler": Task(
        scaler_cases,
        drive_scaler,
        reference_scaler,
        MISTAKES["LossScaler"],
        forbid=("amp.GradScaler",),
    ),
    "save_atomically": Task(
        save_cases, drive_save, reference_save, MISTAKES["save_atomically"]
    ),
    "Loop": Task(loop_cases, drive_loop, reference_loop, MISTAKES["Loop"]),
}
