"""Datasets as TFDS builders, and the folds that divide them. No jax here."""
