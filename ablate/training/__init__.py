"""The training loop, its checkpoints, captured CUDA graphs, and the training of the autoencoder."""
