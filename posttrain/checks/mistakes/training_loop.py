"""What learners get wrong in the exercise `training_loop`, and the hint it earns."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile

import numpy as np
import torch

from posttrain.checks.task import Mistake

# ---------------------------------------------------------------- mfu


def mfu_forward_only(N, L, C, T, speed, peak):
    return (2 * N + 4 * L * C * T) * speed / peak


def mfu_without_attention(N, L, C, T, speed, peak):
    return 6 * N * speed / peak


def mfu_attention_forward(N, L, C, T, speed, peak):
    return (6 * N + 4 * L * C * T) * speed / peak


def mfu_multiply_is_one(N, L, C, T, speed, peak):
    return (3 * N + 6 * L * C * T) * speed / peak


def mfu_square(N, L, C, T, speed, peak):
    return (6 * N + 12 * L * C * T * T) * speed / peak


# ---------------------------------------------------------------- indices


def indices(step, n, B, seed, *, per_epoch=None, key=None, order=None):
    """A right answer with its places to go wrong."""
    per_epoch = per_epoch or n // B
    epoch, i = divmod(step, per_epoch)
    random = np.random.default_rng((seed, epoch) if key is None else key(seed, epoch))
    rows = random.permutation(n) if order is None else order(random, n)
    return rows[i * B : (i + 1) * B].tolist()


def indices_same_every_epoch(step, n, B, seed):
    return indices(step, n, B, seed, key=lambda seed, epoch: (seed, 0))


def indices_sum_of_seeds(step, n, B, seed):
    return indices(step, n, B, seed, key=lambda seed, epoch: seed + epoch)


def indices_with_replacement(step, n, B, seed):
    return indices(step, n, B, seed, order=lambda random, n: random.integers(n, size=n))


def indices_keeps_the_rest(step, n, B, seed):
    return indices(step, n, B, seed, per_epoch=math.ceil(n / B))


def indices_in_order(step, n, B, seed):
    return indices(step, n, B, seed, order=lambda random, n: np.arange(n))


def indices_shuffles_each_step(step, n, B, seed):
    return np.random.default_rng((seed, step)).permutation(n)[:B].tolist()


def indices_global_state(step, n, B, seed):
    np.random.seed((seed + step) % 2**32)
    return indices(step, n, B, seed)


# ---------------------------------------------------------------- accumulate


def summed(model, inputs, targets):
    return torch.nn.functional.cross_entropy(
        model(inputs).transpose(1, 2), targets, reduction="sum"
    )


def counted(targets):
    return int((targets != -100).sum())


def accumulate_mean_of_means(model, micros):
    total = 0.0
    for inputs, targets in micros:
        loss = summed(model, inputs, targets) / counted(targets) / len(micros)
        loss.backward()
        total += loss.item()
    return total


def accumulate_means_added(model, micros):
    total = 0.0
    for inputs, targets in micros:
        loss = summed(model, inputs, targets) / counted(targets)
        loss.backward()
        total += loss.item()
    return total


def accumulate_counts_all(model, micros):
    size = sum(targets.numel() for _, targets in micros)
    total = 0.0
    for inputs, targets in micros:
        loss = summed(model, inputs, targets) / size
        loss.backward()
        total += loss.item()
    return total


def accumulate_sum_only(model, micros):
    total = 0.0
    for inputs, targets in micros:
        loss = summed(model, inputs, targets)
        loss.backward()
        total += loss.item()
    return total / sum(counted(targets) for _, targets in micros)


def accumulate_one_graph(model, micros):
    size = sum(counted(targets) for _, targets in micros)
    loss = sum(summed(model, *micro) for micro in micros) / size
    loss.backward()
    return loss.item()


def accumulate_last_loss(model, micros):
    size = sum(counted(targets) for _, targets in micros)
    for inputs, targets in micros:
        loss = summed(model, inputs, targets) / size
        loss.backward()
    return loss.item()


def accumulate_forgets_between(model, micros):
    size = sum(counted(targets) for _, targets in micros)
    total = 0.0
    for inputs, targets in micros:
        model.zero_grad()
        loss = summed(model, inputs, targets) / size
        loss.backward()
        total += loss.item()
    return total


# ---------------------------------------------------------------- update


def gradients(optimizer):
    return [p.grad for group in optimizer.param_groups for p in group["params"]]


def set_rates(optimizer, factor):
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]


def length(grads):
    return math.sqrt(sum(g.square().sum().item() for g in grads))


def shorten(grads, max_norm):
    norm = length(grads)
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


def update_factors_pile_up(optimizer, factor, max_norm):
    for group in optimizer.param_groups:
        group["lr"] *= factor
    return finish(optimizer, max_norm)


def finish(optimizer, max_norm):
    norm = shorten(gradients(optimizer), max_norm)
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm


def update_one_rate_for_all(optimizer, factor, max_norm):
    first = optimizer.param_groups[0]["initial_lr"]
    for group in optimizer.param_groups:
        group["lr"] = factor * first
    return finish(optimizer, max_norm)


def update_rate_after_step(optimizer, factor, max_norm):
    norm = finish(optimizer, max_norm)
    set_rates(optimizer, factor)
    return norm


def update_clips_after_step(optimizer, factor, max_norm):
    set_rates(optimizer, factor)
    norm = length(gradients(optimizer))
    if math.isfinite(norm):
        optimizer.step()
    shorten(gradients(optimizer), max_norm)
    optimizer.zero_grad()
    return norm


def update_clips_each_group(optimizer, factor, max_norm):
    set_rates(optimizer, factor)
    norm = length(gradients(optimizer))
    for group in optimizer.param_groups:
        shorten([p.grad for p in group["params"]], max_norm)
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm


def update_keeps_gradients(optimizer, factor, max_norm):
    set_rates(optimizer, factor)
    norm = shorten(gradients(optimizer), max_norm)
    if math.isfinite(norm):
        optimizer.step()
    return norm


def update_steps_on_nan(optimizer, factor, max_norm):
    set_rates(optimizer, factor)
    norm = shorten(gradients(optimizer), max_norm)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def update_keeps_bad_gradients(optimizer, factor, max_norm):
    set_rates(optimizer, factor)
    norm = shorten(gradients(optimizer), max_norm)
    if math.isfinite(norm):
        optimizer.step()
        optimizer.zero_grad()
    return norm


def update_returns_length_after(optimizer, factor, max_norm):
    set_rates(optimizer, factor)
    norm = shorten(gradients(optimizer), max_norm)
    if math.isfinite(norm):
        optimizer.step()
        norm = length(gradients(optimizer))
    optimizer.zero_grad()
    return norm


def update_divides_by_zero(optimizer, factor, max_norm):
    set_rates(optimizer, factor)
    norm = length(gradients(optimizer))
    shrink = min(1.0, max_norm / norm)
    for g in gradients(optimizer):
        g.mul_(shrink)
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm


def update_stretches(optimizer, factor, max_norm):
    set_rates(optimizer, factor)
    norm = length(gradients(optimizer))
    if math.isfinite(norm):
        for g in gradients(optimizer):
            g.mul_(max_norm / norm)
        optimizer.step()
    optimizer.zero_grad()
    return norm


# ---------------------------------------------------------------- LossScaler


class RightScaler:
    """A right answer, cut into the places where each mistake goes wrong."""

    def __init__(self, scale, interval):
        self.scale, self.interval, self.good = scale, interval, 0

    def unscale(self, grads):
        if not self.finite(grads):
            self.overflow()
            return False
        for g in grads:
            g.div_(self.scale)
        self.good += 1
        if self.good == self.interval:
            self.grow()
        return True

    def finite(self, grads):
        return all(g.isfinite().all().item() for g in grads)

    def overflow(self):
        self.scale, self.good = self.scale / 2, 0

    def grow(self):
        self.scale, self.good = self.scale * 2, 0


class ScalerMissesNan(RightScaler):
    def finite(self, grads):
        return not any(g.isinf().any().item() for g in grads)


class ScalerMissesInfinity(RightScaler):
    def finite(self, grads):
        return not any(g.isnan().any().item() for g in grads)


class ScalerLooksAtTheFirst(RightScaler):
    def finite(self, grads):
        return grads[0].isfinite().all().item()


class ScalerNeverShrinks(RightScaler):
    def overflow(self):
        self.good = 0


class ScalerKeepsCounting(RightScaler):
    def overflow(self):
        self.scale /= 2


class ScalerHasAFloor(RightScaler):
    def overflow(self):
        self.scale, self.good = max(self.scale / 2, 1.0), 0


class ScalerOfWholeNumbers(RightScaler):
    def overflow(self):
        self.scale, self.good = self.scale // 2, 0


class ScalerHasACeiling(RightScaler):
    def grow(self):
        self.scale, self.good = min(self.scale * 2, 2.0**24), 0


class ScalerGrowsOnce(RightScaler):
    def grow(self):
        self.scale *= 2


class ScalerGrowsEveryStep(RightScaler):
    def grow(self):
        self.scale, self.good = self.scale * 2, self.interval - 1


class ScalerUsesTheNewScale(RightScaler):
    def unscale(self, grads):
        if not self.finite(grads):
            self.overflow()
            return False
        self.good += 1
        if self.good == self.interval:
            self.grow()
        for g in grads:
            g.div_(self.scale)
        return True


class ScalerMultiplies(RightScaler):
    def unscale(self, grads):
        before = self.scale
        good = RightScaler.unscale(self, grads)
        for g in grads if good else ():
            g.mul_(before * before)
        return good


class ScalerOnCopies(RightScaler):
    def unscale(self, grads):
        return RightScaler.unscale(self, [g.clone() for g in grads])


# ---------------------------------------------------------------- save_atomically


def write_flushed(path, data):
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def save_in_place(path, data):
    write_flushed(path, data)
    return hashlib.sha256(data).hexdigest()


def save_removes_first(path, data):
    if os.path.exists(path):
        os.remove(path)
    return save_tidily(path, data)


def save_tidily(path, data, partial=None):
    partial = partial or path + ".partial"
    try:
        write_flushed(partial, data)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    return hashlib.sha256(data).hexdigest()


def save_without_flush(path, data):
    partial = path + ".partial"
    try:
        with open(partial, "wb") as file:
            file.write(data)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    return hashlib.sha256(data).hexdigest()


def save_flushes_the_system_only(path, data):
    partial = path + ".partial"
    try:
        with open(partial, "wb") as file:
            file.write(data)
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    return hashlib.sha256(data).hexdigest()


def save_leaves_partial(path, data):
    write_flushed(path + ".partial", data)
    os.replace(path + ".partial", path)
    return hashlib.sha256(data).hexdigest()


def save_in_another_folder(path, data):
    with tempfile.TemporaryDirectory() as folder:
        partial = os.path.join(folder, "partial")
        write_flushed(partial, data)
        os.replace(partial, path)
    return hashlib.sha256(data).hexdigest()


def save_hides_errors(path, data):
    try:
        return save_tidily(path, data)
    except OSError:
        return None


def save_renames_before_it_is_whole(path, data):
    partial = path + ".partial"
    try:
        with open(partial, "wb") as file:
            os.replace(partial, path)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise
    return hashlib.sha256(data).hexdigest()


def save_returns_raw_digest(path, data):
    save_tidily(path, data)
    return hashlib.sha256(data).digest()


# ---------------------------------------------------------------- Loop


class RightLoop:
    """A right answer; each mistake loses one part of the state."""

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

    def state_dict(self):
        return {
            "w": self.w.clone(),
            "u": self.u.clone(),
            "step": self.step,
            "random": self.generator.get_state(),
        }

    def load_state_dict(self, state):
        self.w.copy_(state["w"])
        self.u.copy_(state["u"])
        self.step = state["step"]
        self.generator.set_state(state["random"])


class LoopForgetsVelocity(RightLoop):
    def load_state_dict(self, state):
        RightLoop.load_state_dict(self, {**state, "u": torch.zeros_like(self.u)})


class LoopKeepsItsVelocity(RightLoop):
    def load_state_dict(self, state):
        RightLoop.load_state_dict(self, {**state, "u": self.u.clone()})


class LoopForgetsStep(RightLoop):
    def load_state_dict(self, state):
        RightLoop.load_state_dict(self, {**state, "step": self.step})


class LoopForgetsGenerator(RightLoop):
    def load_state_dict(self, state):
        random = self.generator.get_state()
        RightLoop.load_state_dict(self, {**state, "random": random})


class LoopSeedsAnew(RightLoop):
    def load_state_dict(self, state):
        random = torch.Generator().manual_seed(1).get_state()
        RightLoop.load_state_dict(self, {**state, "random": random})


class LoopSavesReferences(RightLoop):
    def state_dict(self):
        return {**RightLoop.state_dict(self), "w": self.w, "u": self.u}


class LoopLoadsReferences(RightLoop):
    def load_state_dict(self, state):
        RightLoop.load_state_dict(self, state)
        self.w, self.u = state["w"], state["u"]


MISTAKES = {
    "mfu": (
        Mistake(
            mfu_forward_only,
            "you count the forward pass alone. Backward costs twice as much again: one "
            "product for the inputs, one for the weights.",
        ),
        Mistake(
            mfu_without_attention,
            "the scores and the weighted sum of attention are missing: 12 L C T a "
            "token.",
        ),
        Mistake(
            mfu_attention_forward,
            "attention has a backward pass too: 3 times its forward 4 L C T.",
        ),
        Mistake(
            mfu_multiply_is_one,
            "a product and the addition after it are two operations, and the peak of a "
            "machine is counted that way.",
        ),
        Mistake(
            mfu_square,
            "T too often: *one* token looks at T others. T squared belongs to a whole "
            "window.",
        ),
    ),
    "indices": (
        Mistake(
            indices_same_every_epoch,
            "every epoch has the same order. The epoch belongs into the seed.",
        ),
        Mistake(
            indices_sum_of_seeds,
            "seed + epoch: then epoch 1 of seed 0 is epoch 0 of seed 1, and runs that "
            "you take for independent share their data. Seed with the pair.",
        ),
        Mistake(
            indices_with_replacement,
            "rows are drawn with replacement: some come twice in an epoch, some not at "
            "all. Use a permutation.",
        ),
        Mistake(
            indices_keeps_the_rest,
            "an epoch has n // B steps. A last batch of less than B rows is left out.",
        ),
        Mistake(indices_in_order, "nothing is shuffled."),
        Mistake(
            indices_shuffles_each_step,
            "each step draws a new order, so one epoch shows some rows twice. One "
            "permutation an epoch, cut into batches.",
        ),
        Mistake(
            indices_global_state,
            "you seed NumPy's global generator, and so change what everybody else "
            "draws from it. Use a generator of your own: np.random.default_rng(...).",
        ),
    ),
    "accumulate": (
        Mistake(
            accumulate_mean_of_means,
            "you average means. A token in a small micro-batch then weighs more than "
            "one in a large one, and a micro-batch without targets gives NaN. Divide "
            "every sum by the number of targets of the *whole* step.",
        ),
        Mistake(
            accumulate_means_added,
            "you add up means: the gradient is about as many times too long as there "
            "are micro-batches.",
        ),
        Mistake(
            accumulate_counts_all,
            "targets of -100 do not count: they are not in the sum, so they must not "
            "be in the number that divides it.",
        ),
        Mistake(
            accumulate_sum_only,
            "the gradient is that of the sum. Divide the loss before backward, not "
            "only what you report.",
        ),
        Mistake(
            accumulate_one_graph,
            "the gradient is right, but all graphs are alive at once: no memory is "
            "saved. Call backward after each micro-batch; gradients add up in p.grad.",
        ),
        Mistake(
            accumulate_last_loss,
            "you return the share of the last micro-batch. Add the shares up.",
        ),
        Mistake(
            accumulate_forgets_between,
            "you clear the gradients between micro-batches, and keep the last one's.",
        ),
    ),
    "update": (
        Mistake(
            update_divides_by_zero,
            "gradients may all be zero, and then you divide by a length of 0. Divide "
            "only where the length is above `max_norm`.",
        ),
        Mistake(
            update_factors_pile_up,
            "you multiply the rate of the step before, so factors pile up. The rate is "
            "factor * initial_lr.",
        ),
        Mistake(
            update_one_rate_for_all,
            "each group has an initial_lr of its own.",
        ),
        Mistake(
            update_rate_after_step,
            "the rate is set after the step, one step too late.",
        ),
        Mistake(
            update_clips_after_step,
            "you clip after the step, when it is of no use.",
        ),
        Mistake(
            update_clips_each_group,
            "you clip each group by itself, which turns the direction. One length over "
            "all gradients.",
        ),
        Mistake(
            update_keeps_gradients,
            "the gradients are still there: the next backward will add to them.",
        ),
        Mistake(
            update_steps_on_nan,
            "a gradient that is not finite must not reach the weights: one NaN, and "
            "all is lost. Leave the step out.",
        ),
        Mistake(
            update_keeps_bad_gradients,
            "the step is left out, but its NaN is still in p.grad and will poison the "
            "next one. Forget the gradients in any case.",
        ),
        Mistake(
            update_returns_length_after,
            "return the length *before* clipping: that is what you want to log.",
        ),
        Mistake(
            update_stretches,
            "gradients that are short enough must stay as they are.",
        ),
    ),
    "LossScaler": (
        Mistake(
            ScalerHasAFloor,
            "the scale stops at 1. Where gradients are large, it must go below.",
        ),
        Mistake(
            ScalerOfWholeNumbers,
            "half of 1 is 0.5: halve with `/`, a scale need not be a whole number.",
        ),
        Mistake(
            ScalerHasACeiling,
            "the scale has an upper limit. None was asked for: overflow is the limit.",
        ),
        Mistake(
            ScalerMissesNan,
            "a NaN passes: inf - inf is one. Ask isfinite.",
        ),
        Mistake(
            ScalerMissesInfinity,
            "an infinity passes: that is what an overflow is. Ask isfinite.",
        ),
        Mistake(
            ScalerLooksAtTheFirst,
            "you look at the first tensor only. One bad number anywhere spoils the "
            "step.",
        ),
        Mistake(
            ScalerNeverShrinks,
            "after an overflow the scale stays, so the next step overflows too. Halve "
            "it.",
        ),
        Mistake(
            ScalerKeepsCounting,
            "an overflow must start the count of good steps anew.",
        ),
        Mistake(
            ScalerGrowsOnce,
            "after growing, the count must start anew; yours never reaches the "
            "interval again.",
        ),
        Mistake(
            ScalerGrowsEveryStep,
            "once the scale has grown, it grows at every step. Count anew.",
        ),
        Mistake(
            ScalerUsesTheNewScale,
            "these gradients were made with the scale before it grew. Divide first, "
            "then change it.",
        ),
        Mistake(ScalerMultiplies, "divide by the scale: the loss was multiplied."),
        Mistake(
            ScalerOnCopies,
            "the gradients that you were given have not changed. Divide in place.",
        ),
    ),
    "save_atomically": (
        Mistake(
            save_in_place,
            "you write over the old file. If the disk fills up half-way, both are "
            "lost. Write beside it, then rename.",
        ),
        Mistake(
            save_removes_first,
            "you remove the old file before the new one is safe. os.replace replaces "
            "it in one move.",
        ),
        Mistake(
            save_without_flush,
            "the bytes may still be in memory when the rename reaches the disk: after "
            "a power cut the name points to an empty file. os.fsync first.",
        ),
        Mistake(
            save_flushes_the_system_only,
            "os.fsync brings to the disk what the system has; but your bytes are still "
            "in Python's own buffer. file.flush() first.",
        ),
        Mistake(
            save_leaves_partial,
            "when it fails, half a file is left behind, and the disk stays full. "
            "Remove it, then let the error through.",
        ),
        Mistake(
            save_in_another_folder,
            "the temporary file is in another folder. That may be another disk, and "
            "then a rename is a copy. Put it beside its goal.",
        ),
        Mistake(
            save_hides_errors,
            "you swallow the error: the run goes on and believes in a checkpoint that "
            "is not there. Tidy up, then raise.",
        ),
        Mistake(
            save_renames_before_it_is_whole,
            "you rename before the bytes are written and flushed.",
        ),
        Mistake(
            save_returns_raw_digest,
            "return the digest as text: hexdigest().",
        ),
    ),
    "Loop": (
        Mistake(
            LoopForgetsVelocity,
            "the momentum u begins at 0 again. The optimizer's state is state.",
        ),
        Mistake(
            LoopKeepsItsVelocity,
            "u is not restored: the resumed loop goes on with the momentum of its life "
            "before.",
        ),
        Mistake(
            LoopForgetsStep,
            "the step is not restored, so the learning rate is wrong.",
        ),
        Mistake(
            LoopForgetsGenerator,
            "dropout draws other numbers after the resume. Save generator.get_state().",
        ),
        Mistake(
            LoopSeedsAnew,
            "you seed the generator anew. That is its state at step 0; restore the one "
            "at the cut.",
        ),
        Mistake(
            LoopSavesReferences,
            "the state holds the tensors themselves, and training goes on changing "
            "them. Save clones.",
        ),
        Mistake(
            LoopLoadsReferences,
            "the loop now trains the tensors of the state: whoever loads it again gets "
            "others. Copy into your own.",
        ),
    ),
}
