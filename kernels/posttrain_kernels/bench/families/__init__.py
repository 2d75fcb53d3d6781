"""One module a family. A new one is added to `FAMILIES`, and nowhere else."""

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
        *(softmax, rms_norm, cross_entropy),
        *(linear_cross_entropy, flash_attention, nf4),
    )
}
