"""Answers that the grader of `training_loop` must tell apart. Never given to students.

RIGHT: written another way, and yet right. WRONG: more wrong ones, beside the known
mistakes of `posttrain/checks`. EQUIVALENT: mutants of the solution that behave the
same, with the reason.
"""

import copy
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

# ---------------------------------------------------------------- mfu


def mfu_by_parts(N, L, C, T, speed, peak):
    return speed * (6 * N) / peak + speed * (12 * L * C * T) / peak


def mfu_half_for_the_mask(N, L, C, T, speed, peak):
    return (6 * N + 6 * L * C * T) * speed / peak


# ---------------------------------------------------------------- indices


def indices_of_the_whole_epoch(step, n, B, seed):
    random = np.random.Generator(np.random.PCG64([seed, step // (n // B)]))
    rows = random.permutation(n)[: n // B * B].reshape(-1, B)
    return list(rows[step % (n // B)])


def indices_as_an_array(step, n, B, seed):
    epoch = step // (n // B)
    start = (step - epoch * (n // B)) * B
    return np.random.default_rng([seed, epoch]).permutation(n)[start : start + B]


def indices_from_the_back(step, n, B, seed):
    epoch, i = divmod(step, n // B)
    order = np.random.default_rng((seed, epoch)).permutation(n)[::-1]
    return order[i * B : (i + 1) * B].tolist()


# ---------------------------------------------------------------- accumulate


def accumulate_by_log_softmax(model, micros):
    masks = [targets != -100 for _, targets in micros]
    size = torch.stack([mask.sum() for mask in masks]).sum()
    total = 0
    for (inputs, targets), mask in zip(micros, masks, strict=True):
        log_p = model(inputs).log_softmax(-1)[mask]
        loss = -log_p.gather(-1, targets[mask][:, None]).sum() / size
        loss.backward()
        total = total + loss.detach()
    return total


def accumulate_divides_gradients(model, micros):
    total = size = 0
    for inputs, targets in micros:
        logits = model(inputs).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(
            logits, targets.flatten(), reduction="sum"
        )
        loss.backward()
        total, size = total + loss.item(), size + int((targets != -100).sum())
    for p in model.parameters():
        p.grad.div_(size)
    return total / size


def accumulate_in_float32(model, micros):
    """The logits go to float32 before the softmax, as in mixed precision."""
    size = sum(int((targets != -100).sum()) for _, targets in micros)
    total = 0.0
    for inputs, targets in micros:
        logits = model(inputs).float().flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(
            logits, targets.flatten(), reduction="sum"
        )
        (loss / size).backward()
        total += loss.item()
    return total / size


def accumulate_weighs_by_rows(model, micros):
    total, rows = 0.0, sum(len(inputs) for inputs, _ in micros)
    for inputs, targets in micros:
        logits = model(inputs).transpose(1, 2)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss = loss * len(inputs) / rows
        loss.backward()
        total += loss.item()
    return total


# ---------------------------------------------------------------- update


def update_one_vector(optimizer, factor, max_norm):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    flat = torch.cat([p.grad.flatten() for p in params])
    norm = flat.square().sum().sqrt().item()
    flat = flat * min(1.0, max_norm / (norm + 1e-6))
    parts = flat.split([p.numel() for p in params])
    for p, part in zip(params, parts, strict=True):
        p.grad = part.view_as(p)
    for group in optimizer.param_groups:
        group.update(lr=group["initial_lr"] * factor)
    if norm < float("inf"):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def update_by_pytorch(optimizer, factor, max_norm):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(params, max_norm)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    if torch.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm


def update_clips_by_value(optimizer, factor, max_norm):
    norms = []
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]
        norms += [p.grad.norm() for p in group["params"]]
        for p in group["params"]:
            p.grad.clamp_(-max_norm, max_norm)
    norm = torch.stack(norms).norm()
    if norm.isfinite():
        optimizer.step()
    optimizer.zero_grad()
    return norm


# ---------------------------------------------------------------- LossScaler


class ScalerByCountdown:
    def __init__(self, scale, interval):
        self.scale, self.left, self.interval = scale, interval, interval

    def unscale(self, grads):
        bad = any((~torch.isfinite(g)).any() for g in grads)
        if bad:
            self.scale *= 0.5
            self.left = self.interval
            return False
        torch._foreach_mul_(grads, 1 / self.scale)
        self.left -= 1
        if not self.left:
            self.scale *= 2
            self.left = self.interval
        return True


class ScalerByTheSum:
    """A sum is finite if all of its terms are, here: they are far from the limit."""

    def __init__(self, scale, interval):
        self.scale, self.interval, self.good = float(scale), interval, 0

    def unscale(self, grads):
        total = sum(g.double().sum() for g in grads)
        finite = bool(total - total == 0)
        for g in grads:
            g /= self.scale
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.good % self.interval == 0:
            self.scale *= 2
        return finite


class ScalerReplacesInTheList:
    def __init__(self, scale, interval):
        self.scale, self.interval, self.good = scale, interval, 0

    def unscale(self, grads):
        if not all(g.isfinite().all() for g in grads):
            self.scale, self.good = self.scale / 2, 0
            return False
        for i, g in enumerate(grads):
            grads[i] = g / self.scale
        self.good += 1
        if self.good == self.interval:
            self.scale, self.good = self.scale * 2, 0
        return True


class ScalerShrinksAtOnce:
    def __init__(self, scale, interval):
        self.scale, self.interval, self.good = scale, interval, 0

    def unscale(self, grads):
        if not all(g.isfinite().all() for g in grads):
            self.scale, self.good = 1.0, 0
            return False
        for g in grads:
            g.div_(self.scale)
        self.good += 1
        if self.good == self.interval:
            self.scale, self.good = self.scale * 2, 0
        return True


# ---------------------------------------------------------------- save_atomically


def save_by_pathlib(path, data):
    goal = Path(path)
    partial = goal.with_name(f".{goal.name}.{os.getpid()}")
    done = False
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(goal)
        done = True
    finally:
        if not done:
            partial.unlink(missing_ok=True)
    handle = os.open(goal.parent, os.O_RDONLY)  # a rename is in its folder
    os.fsync(handle)
    os.close(handle)
    return hashlib.sha256(data).hexdigest()


def save_by_tempfile(path, data):
    handle, partial = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        os.write(handle, data)
        os.fsync(handle)
        os.close(handle)
        os.rename(partial, path)
    except OSError:
        os.remove(partial)
        raise
    digest = hashlib.sha256()
    digest.update(data)
    return digest.hexdigest()


def save_hashes_the_path(path, data):
    partial = path + ".partial"
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    return hashlib.sha256(path.encode()).hexdigest()


# ---------------------------------------------------------------- Loop


class LoopBase:
    def __init__(self, w, lr, momentum, p, seed):
        self.w, self.u = w, torch.zeros_like(w)
        self.lr, self.momentum, self.p, self.step = lr, momentum, p, 0
        self.generator = torch.Generator().manual_seed(seed)

    def train_step(self, x, y):
        draw = torch.rand(len(self.w), generator=self.generator)
        x = x * (draw >= self.p) / (1 - self.p)
        error = x @ self.w - y
        self.u.mul_(self.momentum).add_(2 * error * x)
        self.w.sub_(self.lr / (1 + self.step) * self.u)
        self.step += 1
        return error.item() ** 2


class LoopByDeepCopy(LoopBase):
    def state_dict(self):
        state = {k: v for k, v in vars(self).items() if k in ("w", "u", "step")}
        return copy.deepcopy({**state, "random": self.generator.get_state()})

    def load_state_dict(self, state):
        vars(self).update(copy.deepcopy({k: state[k] for k in ("w", "u", "step")}))
        self.generator.set_state(state["random"])


class LoopInPlace(LoopBase):
    def state_dict(self):
        both = torch.stack([self.w, self.u])
        return {"both": both, "at": (self.step, self.generator.get_state().tolist())}

    def load_state_dict(self, state):
        for mine, saved in zip((self.w, self.u), state["both"], strict=True):
            mine.copy_(saved)
        self.step, numbers = state["at"]
        self.generator.set_state(torch.tensor(numbers, dtype=torch.uint8))


class LoopCountsTheStepAgain(LoopByDeepCopy):
    def load_state_dict(self, state):
        LoopByDeepCopy.load_state_dict(self, state)
        self.step += 1


RIGHT = {
    "mfu": [mfu_by_parts],
    "indices": [indices_of_the_whole_epoch, indices_as_an_array],
    "accumulate": [
        accumulate_by_log_softmax,
        accumulate_divides_gradients,
        accumulate_in_float32,
    ],
    "update": [update_one_vector, update_by_pytorch],
    "LossScaler": [ScalerByCountdown, ScalerByTheSum],
    "save_atomically": [save_by_pathlib, save_by_tempfile],
    "Loop": [LoopByDeepCopy, LoopInPlace],
}

WRONG = {
    "mfu": [mfu_half_for_the_mask],
    "indices": [indices_from_the_back],
    "accumulate": [accumulate_weighs_by_rows],
    "update": [update_clips_by_value],
    "LossScaler": [ScalerShrinksAtOnce, ScalerReplacesInTheList],
    "save_atomically": [save_hashes_the_path],
    "Loop": [LoopCountsTheStepAgain],
}

_NUMBER = "a tensor of one number counts as a number"

EQUIVALENT = {
    "indices: `return order[i * B:(i + 1) * B].tolist()` -> "
    "`return order[i * B:(i + 1) * B]`": "an array of rows counts as a list of them",
    "accumulate: `logits = model(inputs).transpose(1, 2)` -> "
    "`logits = model(inputs).transpose(2, 1)`": "the order of the two does not matter",
    "accumulate: `total += loss.item()` -> `total += loss`": _NUMBER,
    "accumulate: `size = sum(((targets != -100).sum().item() for _, targets in "
    "micros))` -> `size = sum(((targets != -100).sum() for _, targets in micros))`": (
        _NUMBER
    ),
    "update: `if norm > max_norm:` -> `if norm >= max_norm:`": (
        "at equality the factor is 1"
    ),
    "save_atomically: `os.fsync(file.fileno())` -> `os.fsync(file)`": (
        "fsync takes the file as well as its number"
    ),
    "Loop: `return error.item() ** 2` -> `return error ** 2`": _NUMBER,
    "Loop: `x = x * (draw >= self.p) / (1 - self.p)` -> "
    "`x = x * (draw > self.p) / (1 - self.p)`": (
        "a draw equals p with a chance of 2^-24, for p = 0 as well"
    ),
}
