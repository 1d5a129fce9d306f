"""The kernel-predicting network (KPN) of the post, with its CPU and CUDA kernels."""
