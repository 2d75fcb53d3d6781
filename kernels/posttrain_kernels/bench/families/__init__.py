"""One module a family. A new one is added to `FAMILIES`, and nowhere else.

In the order in which they are measured. Those that Unsloth takes part in come last:
imported, it changes settings of PyTorch's compiler for the whole process.
"""

from posttrain_kernels.bench.families import (
    cross_entropy,
    flash_attention,
    linear_cross_entropy,
    nf4,
    rms_norm,
    softmax,
)

FAMILIES = {
    module.FAMILY.name: module.FAMILY
    for module in (
        *(softmax, flash_attention),
        *(nf4, rms_norm, cross_entropy, linear_cross_entropy),
    )
}
