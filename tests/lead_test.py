"""The lead that is chosen, by name, unit and content."""

import dataclasses

import numpy as np
import pytest

from ecg_jax.errors import InputError
from ecg_jax.recordings import arrays, content, lead_choice
from ecg_jax.recordings import lead as lead_lib
from ecg_jax.recordings.channels import Channel

RNG = np.random.default_rng(0)
TIME = np.arange(4000) / 500
ECG = np.sin(7 * TIME) + RNG.normal(0, 0.1, 4000)


def channels(names, units=None, roles=None):
  nothing = [None] * len(names)
  return [
    Channel(name, unit, role=role or '')
    for name, unit, role in zip(
      names, units or nothing, roles or nothing, strict=True
    )
  ]


@pytest.mark.parametrize(
  ('names', 'units', 'wanted', 'chosen'),
  [
    (('ECG',), (None,), None, 0),
    (('anything',), (None,), None, 0),
    (('RESP', 'ABP', 'II', 'V'), ('pm', 'mmHg', 'mV', 'mV'), None, 2),
    (('EEG Fpz', 'EKG'), ('uV', 'uV'), None, 1),
    (('EEG Fpz', 'EEG Cz', 'x'), ('uV', 'uV', 'mV'), None, 2),
    (('time', 'Lead I'), (None, None), None, 1),
    (('MLII', 'V5'), ('mV', 'mV'), None, 0),
    (('V5', 'MLII'), ('mV', 'mV'), 'mlii', 1),
    (('a', 'b'), ('mV', 'mV'), '1', 1),
    (('1', '0'), ('mV', 'mV'), '0', 1),
    (('ECG HR', 'aVF'), ('bpm', 'mV'), None, 1),
    # Names that have `ecg` in them and are something else.
    (('ecg_timestamp', 'ecg', 'ppg_ir'), None, None, 1),
    (('ecg_quality', 'ecg_lead_off', 'ECG'), None, None, 2),
    (('ECG_Rate', 'ECG_Quality', 'ECG_R_Peaks', 'ECG_Phase_Atrial', 'ECG_Raw'),
     None, None, 4),
    (('ecgSampleIndex', 'ecgValue'), None, None, 1),
    (('ECG sample rate', 'Resp', 'EKG 1'), None, None, 2),
    # aVR is upside down: any other comes first.
    (('aVR', 'II'), None, None, 1),
    (('AVR', 'aVL', 'I'), None, None, 1),
    (('Lead aVR', 'Lead V1'), None, None, 1),
    (('avr',), None, None, 0),
    # Names that are not at the beginning.
    (('SNUADC/PLETH', 'SNUADC/ECG_II'), None, None, 1),
    (('Shimmer_5E8F_Timestamp_Unix_CAL', 'Shimmer_5E8F_ECG_LL-RA_24BIT_CAL'),
     None, None, 1),
    (('EEG C3-M2', 'C4-M1', 'ECG1-ECG2'), ('uV',) * 3, None, 2),
    (('nSeq', 'DI', 'ECG (A1)'), None, 'a1', 2),
    (('time', 'ECG'), None, 'ECG (mV)', 1),
    # The only one that may be an ECG.
    (('time', 'HR', 'signal'), None, None, 2),
    (('Flow', 'patch'), ('l/s', '?V'), None, 1),
  ],
)  # fmt: skip
def test_the_lead_that_is_chosen(names, units, wanted, chosen):
  """By names, with the help of units."""
  found, _ = lead_choice.choose_lead('f', channels(names, units), wanted)
  assert found == chosen


@pytest.mark.parametrize(
  ('names', 'units', 'wanted'),
  [
    (('a', 'b'), (None, None), None),
    (('EEG', 'Flow'), ('uV', 'l/s'), None),
    (('EEG C3-M2', 'AIRFLOW'), ('mV', 'mV'), None),
    (('EEG',), ('mV',), None),
    (('SpO2',), ('%',), None),
    (('II', 'V'), ('mV', 'mV'), 'V1'),
    (('II', 'V'), ('mV', 'mV'), '2'),
    (('II', 'V'), ('mV', 'mV'), '-1'),
    (('ecg_timestamp', 'ecg_quality'), None, None),
    (('time', 'HR', 'Resp'), None, None),
    (('time', 'ch1', 'ch2'), None, None),
    (('ECG HR',), ('bpm',), None),
  ],
)
def test_an_unknown_lead_is_refused_with_those_there(names, units, wanted):
  with pytest.raises(InputError) as error:
    lead_choice.choose_lead('a.edf', channels(names, units), wanted)
  for word in ('a.edf', *names):
    assert word in str(error.value)


@pytest.mark.parametrize(
  ('roles', 'chosen'),
  [
    (('', ''), 0),
    (('constant', ''), 1),
    (('empty', ''), 1),
    (('flag', ''), 1),
    (('time', ''), 1),
    (('row number', ''), 1),
    (('', 'constant'), 0),
    (('constant', 'constant'), None),
    (('time', 'text'), None),
  ],
)
def test_a_lead_is_chosen_by_content_too(roles, chosen):
  leads = channels(('ECG 1', 'ECG 2'), None, roles)
  if chosen is not None:
    assert lead_choice.choose_lead('f', leads, None)[0] == chosen
    return
  with pytest.raises(InputError, match=rf'0 ECG 1 \({roles[0]}\)'):
    lead_choice.choose_lead('f', leads, None)


@pytest.mark.parametrize('role', ['time', 'row number', 'text', 'empty'])
def test_what_is_no_signal_is_refused_even_if_it_is_asked_for(role):
  leads = channels(('a', 'ECG'), None, (role, ''))
  for wanted in ('a', '0'):
    with pytest.raises(InputError, match=f'a of f is no ECG but {role}'):
      lead_choice.choose_lead('f', leads, wanted)


@pytest.mark.parametrize(
  'role', ['constant', 'flag', 'heart rate, by its name']
)
def test_what_may_be_a_signal_is_read_if_it_is_asked_for(role):
  leads = channels(('a', 'ECG'), None, (role, ''))
  found, notes = lead_choice.choose_lead('f', leads, 'a')
  assert (found, notes) == (0, (f'lead a looks like {role}',))


@pytest.mark.parametrize(
  ('names', 'wanted', 'note'),
  [
    (('aVR', 'Resp'), None, 'lead aVR taken, which is upside down'),
    (('ECG_Raw', 'ECG_Clean'), None, 'lead ECG_Raw taken, not ECG_Clean'),
    (('time', 'x'), None, 'lead x taken, the only one that may be an ECG'),
    (('ECG', 'ECG'), 'ecg', '2 leads are called ECG: the first taken'),
  ],
)
def test_a_choice_among_several_is_noted(names, wanted, note):
  assert lead_choice.choose_lead('f', channels(names), wanted)[1] == (note,)


@pytest.mark.parametrize('names', [('I', 'II', 'aVR', 'V1'), ('ECG', 'HR')])
def test_the_first_of_the_usual_leads_needs_no_note(names):
  assert lead_choice.choose_lead('f', channels(names), None) == (0, ())


@pytest.mark.parametrize(
  ('samples', 'role'),
  [
    (ECG, ''),
    (np.rint(ECG * 100), ''),
    (np.where(np.arange(4000) < 500, np.nan, ECG), ''),
    (np.cumsum(RNG.normal(0, 1, 4000)), ''),
    (np.full(4000, np.nan), 'empty'),
    (np.full(4000, 3.5), 'constant'),
    (np.where(np.arange(4000) % 700, 0, 1), 'flag'),
    (TIME, 'time'),
    (1.7e9 + TIME, 'time'),
    (-TIME, 'time'),
    (TIME + RNG.uniform(0, 0.001, 4000), 'time'),
    (TIME // 1, 'time'),
    (np.arange(4000), 'row number'),
    (np.arange(4000) % 256, 'row number'),
    (np.delete(np.arange(5000), np.arange(900, 1900)), 'row number'),
    (np.arange(10), ''),
  ],
)
def test_the_content_of_a_channel_says_what_it_is(samples, role):
  samples = np.asarray(samples, np.float64)
  blocks = np.array_split(samples, 1 if len(samples) < 100 else 4)
  assert content.role(blocks) == role


@pytest.mark.parametrize('silent', [np.nan, 0.0])
@pytest.mark.parametrize('first', ['I', 'ECG 1'])
def test_a_silent_lead_of_a_file_is_passed_over(silent, first):
  """In formats whose samples are not read before they are asked for."""
  file = arrays.Array(
    tuple(channels((first, 'II'))),
    {},
    np.stack([np.full(4000, silent), ECG]),
  )
  number, notes = lead_choice.choose('f', file, None)
  assert number == 1
  assert notes[0].startswith(f'lead {first} is passed over: ')
  assert lead_choice.choose('f', file, '1') == (1, ())
  alone = dataclasses.replace(file, channels=file.channels[:1])
  assert lead_choice.choose('f', alone, None)[0] == 0


@pytest.mark.parametrize('wanted', [None, '9'])
def test_an_array_of_leads_names_the_argument(wanted):
  with pytest.raises(InputError) as info:
    lead_lib.from_array(
      np.random.default_rng(0).normal(size=(3, 900)), sampling_rate=300.0,
      units='mV', counts_per_millivolt=1000.0, lead=wanted,
    )  # fmt: skip
  assert '--' not in str(info.value)
  info.match('choose with lead; it has 0, 1, 2' if wanted is None else '0, 1')
