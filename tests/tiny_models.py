"""Small models with random weights, and what they compute, in float64."""

import functools

import jax
import numpy as np

from ecg_jax.models import variables as variables_lib
from ecg_jax.models.cnn import CNN
from ecg_jax.models.crnn import CRNN
from ecg_jax.models.residual_crnn import ResidualCRNN

MODELS = {'cnn': CNN, 'crnn': CRNN, 'residual_crnn': ResidualCRNN}

FIELDS = {
  'cnn': {'width': 4, 'growth': 2, 'blocks': 2, 'layers_per_block': 2},
  'residual_crnn': {
    'widths': (4, 6),
    'blocks_per_stage': 2,
    'kernel_frames': 5,
    'lstm_units': 3,
  },
}
FIELDS['crnn'] = FIELDS['cnn'] | {'lstm_units': 5, 'lstm_layers': 1}
DROPOUTS = {
  'cnn': ('dropout_convolution',),
  'crnn': ('dropout_convolution', 'dropout_lstm'),
  'residual_crnn': ('dropout_convolution', 'dropout_output'),
}


def create(name, *, dropout=0.0, **fields):
  """A model with that rate wherever it has dropout."""
  rates = dict.fromkeys(DROPOUTS[name], dropout)
  values = {'num_classes': 4} | FIELDS[name] | rates | fields
  model = MODELS[name]
  return model(model.config_type(**values))


def variable_shapes(model, bins):
  return jax.eval_shape(
    lambda key: variables_lib.initialise(model, key, bins), jax.random.key(0)
  )


@functools.cache
def random_variables(model, bins):
  """Random variables of the right shapes, running statistics included."""
  rng = np.random.default_rng(0)

  def draw(path, array):
    if path[-1].key in ('scale', 'variance'):
      value = rng.uniform(0.5, 2, array.shape)
    elif array.ndim > 1:
      value = rng.normal(0, array.shape[-1] ** -0.5, array.shape) / 2
    else:
      value = rng.normal(0, 0.3, array.shape)
    return value.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, variable_shapes(model, bins))


# The same in float64 by NumPy, of one recording [T, F] without padding.


def reference_logits(model, kind, variables, x):
  config, params = model.config, variables['params']
  x = np.asarray(x, np.float64)
  dense = lambda x, layer: x @ layer['kernel'] + layer['bias']  # noqa: E731
  if 'lstm' not in model.trained['all']:
    summary = _convolution_blocks(config, variables, x).mean(axis=(0, 1))
  elif hasattr(config, 'widths'):
    x = _residual_stages(config, variables, x)
    states, _ = reference_lstm({'layer_0': params['lstm']}, x)
    summary = [x.mean(axis=0), x.max(axis=0), states.mean(axis=0)]
    summary = np.concatenate(summary)
  else:
    x = _convolution_blocks(config, variables, x)
    x = x.reshape(len(x), -1)
    if kind == 'auxiliary':
      summary = np.maximum(dense(x.mean(axis=0), params['auxiliary']), 0)
    else:
      states, last = reference_lstm(params['lstm'], x)
      summary = last if config.summary == 'last' else states.mean(axis=0)
  return dense(summary, params['output'])


def reference_lstm(params, x):
  """Outputs [T, 2 H] of the last layer, and its last states [2 H]."""
  sigmoid = lambda value: 1 / (1 + np.exp(-value))  # noqa: E731
  outputs = np.asarray(x, np.float64)
  for index in range(len(params)):
    layer = params[f'layer_{index}']
    sides, last = [], []
    for direction in range(2):
      kernel, recurrent, bias = (
        np.asarray(layer[name][direction], np.float64)
        for name in ('kernel', 'recurrent_kernel', 'bias')
      )
      hidden = cell = np.zeros(len(recurrent))
      states = []
      for frame in outputs if direction == 0 else outputs[::-1]:
        gates = frame @ kernel + hidden @ recurrent + bias
        update, forget, candidate, output = np.split(gates, 4)
        cell = sigmoid(forget) * cell + sigmoid(update) * np.tanh(candidate)
        hidden = sigmoid(output) * np.tanh(cell)
        states.append(hidden)
      sides.append(states if direction == 0 else states[::-1])
      last.append(hidden)
    outputs = np.concatenate(sides, axis=1)
  return outputs, np.concatenate(last)


def _layer(variables, *names):
  """Parameters and running statistics of a layer of the convolutions."""
  trees = [
    variables[name]['convolutions'] for name in ('params', 'batch_stats')
  ]
  for name in names:
    trees = [tree[name] for tree in trees]
  return trees


def _batch_norm(x, variables, *names):
  layer, running = _layer(variables, *names)
  x = (x - running['mean']) / np.sqrt(running['variance'] + 1e-3)
  return x * layer['scale'] + layer['bias']


def _windows(x, size):
  """[T, F, C, size, size] or [T, C, size]: what each output sees."""
  axes = tuple(range(x.ndim - 1))
  half = size // 2
  x = np.pad(x, [(half, half)] * len(axes) + [(0, 0)])
  return np.lib.stride_tricks.sliding_window_view(x, (size,) * len(axes), axes)


def _convolution_blocks(config, variables, x):
  x = x[..., None]
  for block in range(config.blocks):
    params = variables['params']['convolutions'][f'block_{block}']
    for index in range(config.layers_per_block):
      kernel = params[f'kernel_{index}']
      x = np.einsum('tfiab,abio->tfo', _windows(x, 5), kernel)
      if index == config.layers_per_block - 1 and config.reduction == 'stride':
        x = x[::2, ::2]
      x = _batch_norm(x, variables, f'block_{block}', f'batch_norm_{index}')
      x = np.maximum(x, 0)
    if config.reduction == 'max_pool':
      x = np.pad(x, ((0, x.shape[0] % 2), (0, x.shape[1] % 2), (0, 0)))
      frames, bins, channels = x.shape
      x = x.reshape(frames // 2, 2, bins // 2, 2, channels).max(axis=(1, 3))
  return x


def _residual_stages(config, variables, x):
  params = variables['params']['convolutions']

  def convolve(x, layer, stride=1):
    windows = _windows(x, len(layer['kernel']))[::stride]
    return np.einsum('tik,kio->to', windows, layer['kernel'])

  def activate(x, *names):
    return np.maximum(_batch_norm(x, variables, *names), 0)

  x = convolve(_batch_norm(x, variables, 'input_norm'), params['input'])
  for stage, width in enumerate(config.widths):
    for index in range(config.blocks_per_stage):
      name = f'stage_{stage}_block_{index}'
      stride = 2 if index == 0 else 1
      h = activate(x, name, 'norm_0')
      h = convolve(h, params[name]['layer_0'], stride)
      h = activate(h, name, 'norm_1')
      h = convolve(h, params[name]['layer_1'])
      if stride == 2:
        x = np.pad(x, ((0, len(x) % 2), (0, 0)))
        x = (x[::2] + x[1::2]) / 2
      if x.shape[1] != width:
        x = convolve(x, params[name]['shortcut'])
      x = x + h
  return activate(x, 'output_norm')
