"""Objectives, solvers and sampling of the diffusion model."""
