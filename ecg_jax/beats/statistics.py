"""Statistics of the valid elements of an array.

K: elements. Padding does not change K, so sums have the same bits. Of no
elements a mean, an extreme and a quantile are NaN, and a count is 0.
"""

import jax
import jax.numpy as jnp

Features = dict[str, jax.Array]
"""Name -> float32 scalar; NaN where it cannot be computed."""


def count(flags_K: jax.Array) -> jax.Array:
  """Number of flags that are set, float32."""
  return jnp.sum(flags_K).astype(jnp.float32)


def divide(x_K: jax.Array, number: jax.Array) -> jax.Array:
  """Divides each element by a number.

  XLA turns x / number into this product in some programs but not in others, and
  a tree may decide by the last bit.
  """
  return x_K * (1 / number)


def mean(x_K: jax.Array, mask_K: jax.Array) -> jax.Array:
  """Mean of the valid elements."""
  return jnp.sum(jnp.where(mask_K, x_K, 0.0)) / count(mask_K)


def share(flags_K: jax.Array, mask_K: jax.Array) -> jax.Array:
  """Share of the valid elements whose flag is set."""
  return count(flags_K & mask_K) / count(mask_K)


def deviation(x_K: jax.Array, mask_K: jax.Array) -> jax.Array:
  """Standard deviation of the valid elements."""
  return jnp.sqrt(mean((x_K - mean(x_K, mask_K)) ** 2, mask_K))


def maximum(x_K: jax.Array, mask_K: jax.Array) -> jax.Array:
  """Largest valid element."""
  largest = jnp.max(jnp.where(mask_K, x_K, -jnp.inf))
  return jnp.where(mask_K.any(), largest, jnp.nan)


def minimum(x_K: jax.Array, mask_K: jax.Array) -> jax.Array:
  """Smallest valid element."""
  return -maximum(-x_K, mask_K)


def percentiles(
  x_K: jax.Array, mask_K: jax.Array, *percents: int
) -> list[jax.Array]:
  """Percentiles of the valid elements, linear between neighbors."""
  last = jnp.maximum(jnp.sum(mask_K) - 1, 0)
  ordered = jnp.sort(jnp.where(mask_K, x_K, jnp.inf))
  found = []
  for percent in percents:
    place = last.astype(jnp.float32) * (percent / 100)
    left = jnp.floor(place).astype(jnp.int32)
    part = place - jnp.floor(place)
    # Not a sum of products: infinity behind the last would spoil it.
    right = jnp.minimum(left + 1, last)
    value = ordered[left] + part * (ordered[right] - ordered[left])
    found.append(jnp.where(mask_K.any(), value, jnp.nan))
  return found


def median(x_K: jax.Array, mask_K: jax.Array) -> jax.Array:
  """Median of the valid elements."""
  [found] = percentiles(x_K, mask_K, 50)
  return found


def summary(
  name: str, x_K: jax.Array, mask_K: jax.Array, *percents: int
) -> Features:
  """Mean, deviation, extremes and percentiles, by names that begin so."""
  values = percentiles(x_K, mask_K, *percents)
  labels = [f'{name}_{percent}%' for percent in percents]
  return {
    f'{name}_mean': mean(x_K, mask_K),
    f'{name}_deviation': deviation(x_K, mask_K),
    f'{name}_least': minimum(x_K, mask_K),
    f'{name}_most': maximum(x_K, mask_K),
    **dict(zip(labels, values, strict=True)),
  }


def histogram(
  x_K: jax.Array, mask_K: jax.Array, *, low: float, high: float, bins: int
) -> jax.Array:
  """Share of the valid elements in each of equal bins, float32 [bins]."""
  place_K = jnp.floor((x_K - low) * (bins / (high - low))).astype(jnp.int32)
  inside_KxH = (place_K[:, None] == jnp.arange(bins)[None, :]) & mask_K[:, None]
  counts_H = jnp.sum(inside_KxH, axis=0).astype(jnp.float32)
  return divide(counts_H, jnp.maximum(count(mask_K), 1.0))


def entropy(shares: jax.Array) -> jax.Array:
  """Entropy of shares, nats."""
  return -jnp.sum(shares * jnp.log(jnp.maximum(shares, 1e-30)))


def longest_run(flags_K: jax.Array) -> jax.Array:
  """Most consecutive flags that are set, float32."""
  index = jnp.arange(flags_K.shape[0], dtype=jnp.float32)
  return jnp.max(index - jax.lax.cummax(jnp.where(flags_K, -1.0, index)))


def running_median(x_K: jax.Array, number: jax.Array) -> jax.Array:
  """Median of five neighbors among the first `number`; the ends repeated."""
  around = jnp.arange(x_K.shape[0])[:, None] + jnp.arange(-2, 3)[None, :]
  around = jnp.clip(around, 0, jnp.maximum(number - 1, 0))
  return jnp.sort(x_K[around], axis=1)[:, 2]


def correlation(x_KxW: jax.Array, y_W: jax.Array) -> jax.Array:
  """Correlation of each row with y, [K]; 0 of a constant."""
  x_KxW = x_KxW - jnp.mean(x_KxW, axis=1, keepdims=True)
  y_W = y_W - jnp.mean(y_W)
  power_K = jnp.sum(x_KxW**2, axis=1) * jnp.sum(y_W**2)
  return jnp.sum(x_KxW * y_W[None, :], axis=1) / (jnp.sqrt(power_K) + 1e-9)


def known(enough: jax.Array, found: Features) -> Features:
  """The features as float32 if there was enough to compute them from."""
  return {
    name: jnp.where(enough, value.astype(jnp.float32), jnp.nan)
    for name, value in found.items()
  }
