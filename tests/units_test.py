"""Units of voltage: every spelling of files, and nothing else."""

import pytest

from ecg_jax.recordings.units import to_millivolt, to_seconds

SPELLINGS = {
  1e3: 'V v Volt volts VOLTS [V] Voltios В вольт 伏',
  1.0: (
    'mV MV mv [mV] (mV) "mV" mV. mVolt mVolts millivolt Millivolts milli-volts'
    ' milivoltios miliwolt мВ 毫伏 ミリボルト mV ㎷'
  ),
  1e-3: (
    'uV UV uv µV μV ΜV [uV] (µV) {uV} uVolt UVOLTS microvolt(s) microvolts'
    ' Mikrovolt Micro-Volt mcV mkV мкВ 微伏 マイクロボルト ㎶ uV '
    ' ÂµV Î¼V \x83ÊV ƒÊV ¦ÌV £gV æV \ufffdV \ufffd\ufffdV ?V Ã\x82ÂµV Ã‚ÂµV'
  ),
  1e-6: 'nV NV nVolt nanovolts [nV]',
}


@pytest.mark.parametrize(
  ('text', 'factor'),
  [
    (text, factor)
    for factor, texts in SPELLINGS.items()
    for text in texts.split(' ')
    if text
  ],
)
def test_a_voltage_in_any_spelling(text, factor):
  for padded in (text, f' {text} ', f'{text}\0\0\0', f'\ufeff{text}\t'):
    assert to_millivolt(padded) == factor


@pytest.mark.parametrize('encoding', ['utf-8', 'latin-1', 'cp437', 'mac-roman'])
@pytest.mark.parametrize('read', ['utf-8', 'latin-1', 'cp1252', 'ascii'])
def test_a_micro_sign_in_any_encoding_read_in_any_other(encoding, read):
  content = 'µV'.encode(encoding)
  assert to_millivolt(content.decode(read, 'replace')) == 1e-3
  assert to_millivolt('u V') == to_millivolt('micro volts') == 1e-3


@pytest.mark.parametrize(
  'text',
  [
    *(None, '', ' ', '\0', '?', 'u', 'm', 'µ', 'micro', '[]', '-', 'counts'),
    *('adu', 'uV/bit', 'uV/LSB', 'mVpp', 'mV/s', 'uV²', 'uV^2', 'dBuV', 'kV'),
    *('mmHg', '%', 'bpm', 'ohm', 'mA', 'us', 'Hz', 'mVA', 'eV', 'Level', 'lv'),
    *('1000 mV', 'mV;uV', 'mV or uV', 'mVuV', 'Ωm', '°C', 'V1', 'aVR', 'NU'),
  ],
)
def test_what_is_no_voltage_is_not_taken_for_one(text):
  assert to_millivolt(text) is None


@pytest.mark.parametrize(
  ('text', 'seconds'),
  [
    ('s', 1), ('sec', 1), ('[Seconds]', 1), ('(ms)', 1e-3), ('µs', 1e-6),
    ('ns', 1e-9), ('min', 60), ('hr', 3600), ('hours', 3600), ('days', 86_400),
    ('s/256', 1 / 256), ('0.002 sec', 0.002), ('4ms', 0.004),
    ('0,004 s', 0.004), ('0.00277778 sec', 1 / 360), ('0.0039 s', 0.0039),
    ('mV', None), ('', None), ('0 s', None), ('-1 s', None), ('1e999 s', None),
  ],
)  # fmt: skip
def test_units_and_periods_of_time(text, seconds):
  found = to_seconds(text)
  assert found == (seconds and pytest.approx(seconds, rel=1e-12))
