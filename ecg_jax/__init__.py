"""ecg_jax: rhythm classification of single-lead ECG recordings in JAX."""
