"""The laboratory: prove a Triton kernel without a GPU."""
