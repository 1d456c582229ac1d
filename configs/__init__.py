"""The shipped configs, also importable as ecg_jax.configs."""
