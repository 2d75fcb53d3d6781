"""What a training step costs: FLOPs, bytes, and where the time goes.

Each number is there twice, as a formula and measured, so that one can check the other:

    flops_per_token(config, T)       matmul_peak("fp32")      -> model FLOPs utilisation
    activation_bytes(config, B, T)   saved_bytes(model, ...)  -> what backward needs
    state_bytes(trainer)             weights, gradients, moments

and `step_profile` sorts what PyTorch's profiler saw by phase and kind of work.

Letters as in `modern_architecture`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from posttrain.foundations.batches import Batch, total_loss
from posttrain.foundations.modern_architecture import GPTConfig
from posttrain.foundations.run_log import quiet_profiler
from posttrain.foundations.trainer import PRECISIONS, Trainer

KINDS = ("matrix products", "attention", "the rest")
PHASES = ("forward", "backward", "optimizer", "Python and data")


def matrix_parameters(config: GPTConfig) -> int:
    """Parameters that multiply each token: the blocks' matrices and the read-out.

    The lookup in the embedding is no product, and gains are too few to count.
    """
    C, kv = config.C, config.H_kv * config.D
    attention = 2 * C * C + 2 * C * kv  # q and out, k and v
    return config.L * (attention + 3 * C * config.F) + C * config.V


def flops_per_token(config: GPTConfig, T: int) -> int:
    """FLOPs of one trained token in a window of T: forward and backward.

    A matrix of n parameters costs 2 n forward and 4 n backward. The scores and the
    weighted sum are 2 C T each a layer, forward; as is usual, what the causal mask
    saves is not taken off. Source: Chowdhery et al. 2022, appendix B.
    """
    return 6 * matrix_parameters(config) + 12 * config.L * config.C * T


def matmul_peak(precision: str, device: str = "cpu", n: int = 1024) -> float:
    """FLOP/s of an n by n matrix product: what this machine can really do."""
    dtype = PRECISIONS[precision] or torch.float32
    a = torch.ones(n, n, dtype=dtype, device=device)
    repeats = 5 if device == "cpu" else 200
    return 2 * n**3 / seconds(lambda: a @ a, repeats, device)


def seconds(work: Callable[[], object], repeats: int, device: str = "cpu") -> float:
    """Seconds of one call after a warm-up: of the CPU on a CPU, of the clock on a GPU.

    CPU-seconds are not disturbed by other programs on the machine.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    work()
    wait_for(device)
    before = clock()
    for _ in range(repeats):
        work()
    wait_for(device)
    return (clock() - before) / repeats


def wait_for(device: str) -> None:
    """A GPU works on after the call has returned; wait until it is done."""
    if device != "cpu":
        torch.cuda.synchronize()


# ---------------------------------------------------------------- memory


def activation_bytes(config: GPTConfig, B: int, T: int) -> int:
    """Bytes that backward needs of a forward pass in fp32, without dropout.

    A token and layer, in numbers: 11 C (each of the two norms keeps its input, the
    normalised input and the output; queries before and after their norm and rotated;
    attention's output, twice), 4 H_kv D (keys before and after their norm and rotated;
    values), 4 F (gate, up, silu of the gate, their product), and
    2 + 2 H + H_kv (a root mean square for each norm and head, attention's normaliser).
    Outside the layers: 3 C for the last norm, V log-probabilities. Exact for B >= 2; a
    single window needs no copy of its targets, 8 T bytes less.
    """
    C, H, H_kv = config.C, config.H, config.H_kv
    layer = 11 * C + 4 * H_kv * config.D + 4 * config.F + 2 + 2 * H + H_kv
    token = 4 * (config.L * layer + 3 * C + config.V + 1)
    indices = 8 * B * (T + 1) + 8 * B * T + 4  # tokens, targets, their count
    return B * T * token + indices


def saved_bytes(model: nn.Module, batch: Batch) -> int:
    """Bytes of all tensors that autograd saves in a forward pass, counted once.

    Parameters and buffers are not counted: they are there anyway.
    """
    own = {*model.parameters(), *model.buffers()}
    known = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept: dict[int, Tensor] = {}  # holds them, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in known:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = total_loss(model, batch)
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del loss
    return total


def state_bytes(trainer: Trainer) -> dict[str, int]:
    """Bytes of weights, of gradients (as large), and of the optimizers' state."""
    weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    states = (s for o in trainer.optimizers for s in o.state.values())
    tensors = (v for state in states for v in state.values())
    moments = sum(
        t.numel() * t.element_size()
        for t in tensors
        if isinstance(t, Tensor) and t.ndim
    )
    return {"weights": weights, "gradients": weights, "moments": moments}


# ---------------------------------------------------------------- time


def step_profile(trainer: Trainer, steps: int = 5) -> dict[str, dict[str, float]]:
    """Milliseconds of the clock in a step, by phase and by kind of work.

    Each operation's own time, without that of the operations inside it, goes to the
    phase that it was called from; "Python and data" is what no operation accounts for.
    Medians over `steps` steps. Advances the trainer by steps + 1.
    """
    trainer.train_step()  # makes the optimizers' state
    tables = [profiled(trainer.train_step) for _ in range(steps)]
    return {
        phase: {
            kind: round(median(table[phase][kind] for table in tables), 2)
            for kind in KINDS
        }
        for phase in PHASES
    }


def profiled(work: Callable[[], object]) -> dict[str, dict[str, float]]:
    """Milliseconds of one call: {phase: {kind: time}}."""
    quiet_profiler()
    table = {phase: dict.fromkeys(KINDS, 0.0) for phase in PHASES}
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        before = time.perf_counter()
        work()
        whole = 1000 * (time.perf_counter() - before)
    for event in profiler.events():
        own = event.self_cpu_time_total / 1000  # microseconds
        table[phase_of(event)][kind_of(event.name)] += own
        whole -= own
    table["Python and data"]["the rest"] = max(0.0, whole)
    return table


def phase_of(event) -> str:
    """forward, backward or optimizer: by the operations around it."""
    while event is not None:
        if event.name.startswith("Optimizer.step"):
            return "optimizer"
        if event.name.startswith("autograd::engine"):
            return "backward"
        event = event.cpu_parent
    return "forward"


def kind_of(name: str) -> str:
    """One of KINDS, by the name of an operation."""
    if "scaled_dot_product" in name:
        return "attention"
    products = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm")
    return "matrix products" if name in products else "the rest"
