"""What the tests of training share: jobs made from jobs, and recorded calls."""

import contextlib
import dataclasses
import logging
import re

import jax

from ecg_jax.input_pipeline import device_data
from ecg_jax.runtime import sharding
from ecg_jax.runtime.device_groups import DeviceGroup

_GROUPS = ('sampler', 'loop', 'fold', 'optimizer', 'network')


def with_fields(job, **fields):
  """The job with other values of its own fields or of those of its groups."""
  seed = fields.get('seed', job.seed)
  number = fields.get('number', job.fold.number)
  fields['key'] = (seed, number)
  if 'dataset' in fields:
    fields['lengths'] = fields['dataset'].lengths
  own = {f.name for f in dataclasses.fields(job)} & fields.keys()
  changes = {name: fields[name] for name in own}
  used = set(own)
  for group in _GROUPS:
    value = changes.get(group, getattr(job, group))
    names = {f.name for f in dataclasses.fields(value)} & fields.keys() - own
    used |= names
    if names:
      changes[group] = dataclasses.replace(
        value, **{name: fields[name] for name in names}
      )
  assert used == fields.keys()
  return dataclasses.replace(job, **changes)


def with_model(job, **fields):
  """The job with other fields of its model's config."""
  model = job.network.model
  config = dataclasses.replace(model.config, **fields)
  return with_fields(job, model=model.clone(config=config))


def make_group(first=0, count=1):
  """A group of devices of this process."""
  return DeviceGroup(sharding.make_mesh(jax.devices()[first : first + count]))


def put_data(job, mesh):
  """The job's dataset on the devices, with the weights of its fold."""
  data = device_data.put_dataset(job.fold.dataset, job.fold.label_version, mesh)
  return device_data.with_weights(data, job.fold.weights, mesh)


@contextlib.contextmanager
def compilations():
  """Lists the programs that are compiled in this context.

  Yields:
    Of each: its name, and whether it is compiled ahead of its call.
  """
  found = []

  class Handler(logging.Handler):
    def emit(self, record):
      text = record.getMessage()
      name = re.match(r'Finished XLA compilation of jit\((\w+)\)', text)
      if name:
        ahead = record.threadName.startswith('compile')
        found.append((name[1], ahead))

  logger, handler = logging.getLogger('jax'), Handler()
  level, propagate = logger.level, logger.propagate
  logger.addHandler(handler)
  logger.setLevel(logging.DEBUG)
  logger.propagate = False
  try:
    yield found
  finally:
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate


def spy(patch, owner, name, *, before=None, after=None):
  """Reports each call of a function.

  Args:
    patch: A pytest.MonkeyPatch.
    owner: Module or class that has the function.
    name: Its name.
    before: Is called with the arguments of each call.
    after: Is called with the result of each call and its arguments.
  """
  original = getattr(owner, name)

  def call(*args, **kwargs):
    if before is not None:
      before(*args, **kwargs)
    result = original(*args, **kwargs)
    if after is not None:
      after(result, *args, **kwargs)
    return result

  if hasattr(original, 'lower'):  # A program that is compiled ahead, too.
    call.lower = original.lower
  patch.setattr(owner, name, call)
