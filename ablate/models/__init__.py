"""Networks: the KPN denoiser and the autoencoder; their cost, memory and weight files."""
