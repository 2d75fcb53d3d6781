"""Triton kernels of the book, each provable without a GPU and measured on one.

One module per family: the kernel, its wrapper, a naive reference in plain PyTorch, the
registration that torch.compile needs, and `cost()` in bytes and FLOPs. `lab` is the
laboratory that proves them on a CPU; it works on kernels of your own too.

    from posttrain_kernels import lab

On a GPU the wrappers launch the kernels, on a CPU they compute the same with PyTorch.
The folder `kernels/` that holds this package has no `__init__.py` on purpose: another
distribution is named `kernels`, and a package of that name would shadow it.
"""
