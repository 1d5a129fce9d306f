"""Training of the denoiser and the autoencoder: loop, checkpoints, captured steps."""
