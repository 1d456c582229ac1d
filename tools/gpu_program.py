"""What a compiled GPU program consists of, read from its text.

XLA prints an optimized program as computations of instructions. An instruction
that runs something on the GPU is a launch; those of a loop's body count as
often as the loop runs. A chunk's program is one loop over its steps, of unknown
length, so all counts are of one step.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

_BYTES = {'pred': 1, 'u8': 1, 's8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2}
_BYTES |= {'f32': 4, 's32': 4, 'u32': 4, 'f64': 8, 's64': 8, 'u64': 8}

_NOTHING_RUNS = {
  'after-all',
  'all-reduce-done',
  'bitcast',
  'constant',
  'fusion-done',
  'get-tuple-element',
  'opt-barrier',
  'parameter',
  'tuple',
}

_CONVOLUTIONS = {
  '__cudnn$convForward': 'forward',
  '__cudnn$convBackwardInput': 'by x',
  '__cudnn$convBackwardFilter': 'by kernel',
}

PURPOSES = (
  'LSTM',
  'convolutions',
  'normalization',
  'dropout',
  'rest of layers',
  'optimizer',
  'all-reduces',
  'rest',
)
"""What launches are for, in the order of the table."""

_LEAST_ACTIVATION_BYTES = 2**20
"""From this size on, what is copied or transposed is an activation."""


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation."""

  name: str
  shape: str
  """Type and layout of the result, such as 'bf16[20,280,33,32]{3,2,1,0}'."""
  opcode: str
  operands: tuple[str, ...]
  """Names of the arguments."""
  attributes: str
  """The rest of the line, its metadata included."""

  @property
  def op_name(self) -> str:
    """Path of the operation in the traced program."""
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else ''

  @property
  def bytes(self) -> int:
    """Size of the result."""
    return size_bytes(self.shape)

  @property
  def convolution(self) -> str | None:
    """'forward', 'by x' or 'by kernel', or None for what is none of cuDNN."""
    found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
    return _CONVOLUTIONS.get(found[1]) if found else None

  @property
  def window(self) -> str:
    """Size and stride of a convolution's window, such as '5x5'."""
    [size, stride] = [
      re.search(rf'window={{[^}}]*{key}=([\dx]+)', self.attributes)
      for key in ('size', 'stride')
    ]
    parts = [size[1]] if size else []
    parts += [f'stride {stride[1]}'] if stride else []
    return ' '.join(parts)

  @property
  def dimensions(self) -> str:
    """Order of a convolution's dimensions, such as 'b01f_o01i->b01f'."""
    found = re.search(r'dim_labels=([^, ]*)', self.attributes)
    return found[1] if found else ''

  @property
  def moves_activation(self) -> bool:
    """Whether all it does is to store an activation in another order."""
    reorders = self.opcode == 'transpose' or (
      self.opcode in ('copy', 'fusion')
      and re.match(r'(wrapped_transpose|copy|transpose)[_.\d]', self.name)
    )
    return bool(reorders) and self.bytes >= _LEAST_ACTIVATION_BYTES


@dataclasses.dataclass(frozen=True)
class Launch:
  """An instruction that runs in a step."""

  instruction: Instruction
  times: int
  """How often, in one step."""
  bytes: int
  """Size of its operands and results."""

  @property
  def purpose(self) -> str:
    """One of PURPOSES."""
    instruction = self.instruction
    path = instruction.op_name
    if instruction.opcode.startswith('all-reduce'):
      return 'all-reduces'
    if instruction.convolution:
      return 'convolutions'
    marks = {
      'optimizer': 'optimizer',
      'lstm': 'LSTM',
      'ropout': 'dropout',
      '_statistics': 'normalization',
      '_forward': 'normalization',
      '_backward': 'normalization',
      'batch_norm': 'normalization',
      'convolutions': 'rest of layers',
    }
    found = (purpose for mark, purpose in marks.items() if mark in path)
    return next(found, 'rest')


def size_bytes(shape: str) -> int:
  """Bytes of an array or of a tuple of arrays."""
  return sum(
    _BYTES.get(kind, 0) * math.prod(int(n) for n in sizes.split(',') if n)
    for kind, sizes in re.findall(r'([a-z]+\d*)\[([\d,]*)\]', shape)
  )


@dataclasses.dataclass(frozen=True)
class Program:
  """The computations of a program, by name."""

  computations: Mapping[str, Sequence[Instruction]]
  entry: str
  """Name of the computation that the program begins with."""

  @classmethod
  def parse(cls, text: str) -> 'Program':
    """Reads the text of an optimized program, as `Compiled.as_text` gives."""
    computations: dict[str, list[Instruction]] = {}
    entry, lines = '', None
    for line in text.splitlines():
      start = re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\) -> .* {$', line)
      if start:
        lines = computations.setdefault(start[2], [])
        entry = start[2] if start[1] else entry
      elif line.startswith('}'):
        lines = None
      elif lines is not None:
        lines += _parse_line(line)
    return cls(computations, entry)

  @functools.cached_property
  def launches(self) -> list[Launch]:
    """What runs in a step; of a program without a loop, what runs at all."""
    loops = [i for i in self.computations[self.entry] if i.opcode == 'while']
    steps = [loop for loop in loops if _trip_count(loop) is None]
    body = _called(steps[0], 'body') if steps else self.entry
    return list(self._walk(body, 1))

  def _walk(self, computation: str, times: int) -> Iterator[Launch]:
    shapes: dict[str, str] = {}
    for instruction in self.computations[computation]:
      shapes[instruction.name] = instruction.shape
      if instruction.opcode in _NOTHING_RUNS:
        continue
      if instruction.opcode == 'while':
        count = _trip_count(instruction) or 1
        yield from self._walk(_called(instruction, 'body'), times * count)
        continue
      read = sum(size_bytes(shapes[name]) for name in instruction.operands)
      yield Launch(instruction, times, read + instruction.bytes)

  def by_purpose(self) -> dict[str, int]:
    """Purpose -> launches of a step, all of PURPOSES."""
    counts = collections.Counter(dict.fromkeys(PURPOSES, 0))
    for launch in self.launches:
      counts[launch.purpose] += launch.times
    return dict(counts)

  def convolutions(self) -> dict[tuple[str, str, str], int]:
    """Kind, window and order of dimensions -> convolutions of a step."""
    return collections.Counter(
      (kind, one.window, one.dimensions)
      for one in self.instructions
      if (kind := one.convolution)
    )

  @property
  def instructions(self) -> list[Instruction]:
    """What runs in a step, each once."""
    return [launch.instruction for launch in self.launches]

  def moved_activations(self) -> list[Instruction]:
    """What stores an activation of a step in another order, and no more."""
    return [one for one in self.instructions if one.moves_activation]

  def all_reduces(self) -> list[Instruction]:
    """The all-reduces of a step."""
    return [
      one for one in self.instructions if one.opcode.startswith('all-reduce')
    ]


def _parse_line(line: str) -> list[Instruction]:
  """The instruction of a line, or none."""
  found = re.match(r'\s*(?:ROOT )?%?([\w.\-]+) = (.*)$', line)
  if not found:
    return []
  name, rest = found.groups()
  is_tuple = rest.startswith('(')
  end = _closing(rest, 0) + 1 if is_tuple else rest.find(' ')
  shape, rest = rest[:end], rest[end + 1 :]
  begin = rest.find('(')
  end = _closing(rest, begin)
  operands = re.findall(r'%([\w.\-]+)', rest[begin : end + 1])
  return [Instruction(name, shape, rest[:begin], tuple(operands), rest[end:])]


def _closing(text: str, begin: int) -> int:
  """Position of the parenthesis that closes the one at `begin`."""
  depth = 0
  for position in range(begin, len(text)):
    depth += (text[position] == '(') - (text[position] == ')')
    if depth == 0:
      return position
  return len(text)


def _trip_count(loop: Instruction) -> int | None:
  found = re.search(r'known_trip_count":{"n":"(\d+)"', loop.attributes)
  return int(found[1]) if found else None


def _called(instruction: Instruction, role: str) -> str:
  [name] = re.findall(rf'{role}=%?([\w.\-]+)', instruction.attributes)
  return name
