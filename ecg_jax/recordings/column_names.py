"""What the name of a channel says that it is."""

import functools
import re

_LEAD = re.compile(
  r'(lead|mod\.?|ml?|ecg|ekg|ableitung|d[ée]rivation|derivaci[oó]n|derivazione|'
  r'afleiding|deriva[cç][aã]o)?[ _.-]*'
  r'(i|ii|iii|av[rlf]|v\d\w*|mcl\d|c[mc]\d|l[1-3]|d[123]|ml?(i|ii|iii|v\d))'
  r'([-+ (].*)?',
  re.IGNORECASE,
)
"""Names of the leads of an ECG."""

_WORDS = {
  'time': (
    r'time|clock|uhrzeit|zeit|temps|tiempo|tempo|tijd|heure|hora|datum|date|'
    r'elapsed|secs?|seconds?|ms|msec|millisec|us|ns|min|minutes|s|t'
  ),
  'row number': (
    r'index|idx|row|nr|no|num(ber)?|nseq|seq(uence)?|n?samples?|count(er)?|'
    r'frame|packet|sampleindex|samplenum(ber)?'
  ),
  'heart rate': (r'hr|hrv|bpm|heart|pulse|puls|rate|ibi|rri?|nni?|nn|beats?'),
  'quality': (
    r'quality|sqi|status|valid|confidence|noise|saturat\w*|impedance|contact|'
    r'loff|leadoff|off|battery|bat|batt|rssi|gain|offset'
  ),
  'annotation': (
    r'peaks?|onsets?|offsets?|phase|completion|marker|event|trigger|annot\w*|'
    r'label|class\w*|flag|comment|note|beat|target|type|button|di|dig\w*'
  ),
  'another signal': (
    r'acc|accel\w*|gyro?\w*|mag|magn\w*|imu|temp|temperature|eda|gsr|emg|eog|'
    r'eeg|meg|resp\w*|rsp|breath\w*|airflow|flow|nasal|thor\w*|abd\w*|chest|'
    r'abdomen|snore|position|pos|light|lux|spo2|sao2|o2|co2|etco2|ppg\w*|'
    r'pleth\w*|ir|red|green|abp|art|bp|nibp|icp|cvp|pap|pressure|press|force|'
    r'humidity|baro\w*|sound|mic|audio|pcg|phono\w*|bcg|scg|icg|dz|z0|glucose|'
    r'power|speed|gps|lat|lon|altitude|steps?|aux\w*'
  ),
}
"""What a channel with such a word in its name is, if it is no ECG."""

_KEY = re.compile(
  r'(record|session|subject|patient|user|device|file)?(id|key|identifier)|'
  r'uuid|guid|record(ing)?|session|subject|participant|patient'
)
"""Words in the name of a column of keys."""

_KEY_OF_WORDS = re.compile(
  'file(name)?|name|user|device|sensor|channel|lead|signal'
)
"""The same where the fields are words."""

_EEG = re.compile(
  r'(fp|af|fc|ft|cp|tp|po|f|c|p|o|t)(z|\d{1,2})-\w+', re.IGNORECASE
)
"""Derivations of an EEG, such as C3-M2."""

_IN_AN_ECG_NAME = ('another signal',)
"""What does not count in a name with `ECG`, such as `ECG_RA-chest`."""


def _words(name: str) -> list[str]:
  """Words of a name, in lower case: of `ecgTimeStamp_ms`, four."""
  name = re.sub(r'(?<=[a-z\d])(?=[A-Z])', ' ', name)
  return [x for x in re.split(r'[^\w]+|_|\s+', name.lower()) if x]


@functools.lru_cache
def is_ecg(name: str) -> bool:
  """Whether a channel has a name like an ECG's, or a lead's."""
  if _LEAD.fullmatch(name.strip()):
    return True
  named = re.search('ecg|ekg|electrocardio|elektrokardio', name, re.IGNORECASE)
  return bool(named) and not role(name)


def is_lead(name: str) -> bool:
  """Whether a name is one of a lead, such as II or V5."""
  return bool(_LEAD.fullmatch(name.strip()))


def is_inverted(name: str) -> bool:
  """Whether a lead is aVR, in which the ECG is upside down."""
  return bool(re.fullmatch(r'(lead[ _]*)?-?avr([-+ (].*)?', name.strip(),
                           re.IGNORECASE))  # fmt: skip


def is_key(name: str, *, of_words: bool) -> bool:
  """Whether a column says to which recording or signal a row belongs.

  Args:
    name: Its name.
    of_words: Whether it has words; numbers may be a signal of such a name.
  """
  words = _words(name)
  if re.search('ecg|ekg', name, re.IGNORECASE):
    words = words[-1:]  # Such as `ecg_id`, not `ECG recording`.
  patterns = (_KEY, _KEY_OF_WORDS) if of_words else (_KEY,)
  return not role(name) and any(
    pattern.fullmatch(word) for pattern in patterns for word in words
  )


@functools.lru_cache
def role(name: str) -> str:
  """What a channel is by its name, '' where it may be an ECG.

  Returns:
    'time', 'row number', 'heart rate', 'quality', 'annotation', 'another
    signal' or ''.
  """
  if _LEAD.fullmatch(name.strip()):
    return ''
  if _EEG.fullmatch(name.strip()):
    return 'another signal'
  named = re.search('ecg|ekg', name, re.IGNORECASE)
  words = _words(name)
  words += [re.sub('^(ecg|ekg)|(ecg|ekg)$', '', word) for word in words]
  for kind, pattern in _WORDS.items():
    if named and kind in _IN_AN_ECG_NAME:
      continue
    if any(
      re.fullmatch(rf'(?:{pattern})\d*|\w*(?:timestamp|datetime)\w*', word)
      if kind == 'time'
      else re.fullmatch(rf'(?:{pattern})\d*', word)
      for word in words
      if word
    ):
      return kind
  return ''
