"""Networks: the KPN denoiser, the autoencoder, and what they cost."""
