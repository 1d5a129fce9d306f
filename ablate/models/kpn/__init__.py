"""The kernel-predicting network (KPN), with its CPU and CUDA kernels."""
