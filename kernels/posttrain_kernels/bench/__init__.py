"""Speed and memory of the kernels, beside what else computes the same.

    python -m posttrain_kernels.bench                      everything, into results/
    python -m posttrain_kernels.bench --family rms_norm    one family
    python -m posttrain_kernels.bench --quick              small sizes, few rounds
    python -m posttrain_kernels.bench --list               what there is; needs no GPU

Each case is printed as soon as it is measured, and kept in FILE.part until the whole
run is done, so a run that is cut off loses one case. Most of the time goes to
torch.compile; --seconds says how long a pass is timed.

How it measures. Every contestant gets the same inputs, and its results and gradients
are held against the plain PyTorch reference in fp32 first; what is wrong is not timed.
Then all contestants of a case run in one process, in turns: each round times every one
once, and every round starts with another one, so that a clock which falls as the chip
warms hurts all alike. Before each launch the L2 cache is overwritten, because in a
training step the inputs come from memory as well. Time is the GPU's own (CUDA events);
compiling and autotuning lie in the warm-up. Reported are medians with the quantiles 0.2
and 0.8.

How fast is fast? `cost()` of a family gives the bytes and FLOPs that cannot be avoided.
Divided by the copy bandwidth and the matmul rate of this very GPU, both measured in the
same run, that is the physical limit, and each median is shown as a share of it.

What it does not do: host time counts only where a contestant waits for the GPU in the
middle of its work; nothing is averaged over several GPUs; clocks are not locked. Where
Unsloth takes part, torch.compile runs with the settings that Unsloth makes on import.
"""
