"""Attention by kernels of an accelerator: splash on TPUs, cuDNN on GPUs."""
