"""From samples to logits, and the loss.

A model is a Flax module with one field, `config`, and two class variables:

* `config_type`: the frozen dataclass of its config, derived from
  `ecg_jax.fields.models.ModelFields`.
* `trained`: kind of phase -> names of the top-level parameters it trains.

It is called with log-spectrograms [B, T, F], valid frames [B], `train` and
`kind`, a key of `trained`, and returns logits [B, C].
"""
