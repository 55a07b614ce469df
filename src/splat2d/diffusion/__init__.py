"""Generative models whose samples are splats: build a set, train, sample, edit, evaluate. Needs the extra diffusion."""
