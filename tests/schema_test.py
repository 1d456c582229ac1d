"""What a dataset says of itself."""

import dataclasses
import json

import pytest

from ecg_jax.datasets.schema import CHALLENGE, DatasetSpec, recording_of
from ecg_jax.errors import InputError

PLAIN = {'classes': ('a', 'b', 'c'), 'sampling_rate': 100}


def test_what_is_empty_follows_from_the_rest():
  spec = DatasetSpec(**PLAIN)
  assert spec.num_classes == 3
  assert spec.scored_classes == spec.class_names == spec.classes
  assert spec.folds_label_version == 'v1'
  assert (
    DatasetSpec(**PLAIN, label_versions=('x', 'y')).folds_label_version == 'x'
  )
  assert CHALLENGE.num_classes == 4
  assert CHALLENGE.scored_classes == ('N', 'A', 'O')


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'classes': ('a',)}, r"classes is \('a',\): name at least two, each once"),
    ({'classes': ('a', 'b', 'a')}, 'name at least two, each once'),
    ({'scored_classes': ('a', 'd')}, "'d' is none of the"),
    ({'episode_class': 'A'}, "'A' is none of the"),
    ({'noise_class': '~'}, "'~' is none of the"),
    ({'class_names': ('one', 'two')}, 'class_names is .*: name each class'),
    ({'folds_label_version': 'v2'}, "version is 'v2': use a label version"),
    ({'num_folds': 1}, 'num_folds is 1: use at least 2'),
    ({'sampling_rate': 0}, 'sampling_rate is 0: it must be from 50 to'),
    ({'sampling_rate': 250.5}, 'sampling_rate is 250.5: write a whole number'),
    ({'sampling_rate': '125'}, "sampling_rate is '125': write a whole"),
    ({'classes': 'ab'}, "classes is 'ab': write a tuple of texts"),
    ({'classes': (1, 2)}, 'classes is .*: write a tuple of texts'),
    ({'classes': ('a', 'b\n')}, 'write a tuple of texts of one line'),
    ({'classes': ('a', 'undecided')}, "'undecided' is what is reported"),
    ({'counts_per_millivolt': -1.0}, 'counts_per_millivolt must be positive'),
  ],
)
def test_a_description_that_contradicts_itself_is_refused(fields, message):
  with pytest.raises(InputError, match=f'^A dataset describes .*{message}'):
    DatasetSpec(**PLAIN | fields)


@pytest.mark.parametrize('spec', [CHALLENGE, DatasetSpec(**PLAIN)])
def test_json_gives_it_back_whatever_a_later_version_adds(spec):
  fields = json.loads(json.dumps(spec.to_json()))
  assert DatasetSpec.from_json(fields) == spec
  assert DatasetSpec.from_json(fields | {'later': [1]}) == spec
  # One that has only what a spec must have is whole.
  needed = {name: fields[name] for name in PLAIN}
  assert DatasetSpec.from_json(needed) == DatasetSpec(
    classes=spec.classes, sampling_rate=spec.sampling_rate
  )
  assert hash(spec) == hash(dataclasses.replace(spec))


def test_recording_of_a_segment():
  for record, recording in {
    'a': 'a', '100@30-60': '100', 'b/c@0-0.5': 'b/c', 'a@1775.56-': 'a',
    'me@home': 'me@home', 'a@1-2@3-4': 'a@1-2', '@1-2': '@1-2',
  }.items():  # fmt: skip
    assert recording_of(record) == recording
