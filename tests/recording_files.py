"""Writers of recordings in several formats, and readers of them."""

import binascii
import struct

import edfio
import h5py
import numpy as np
import pydicom
import scipy.io
import wfdb

from ecg_jax.datasets.synthetic_ecg import generator
from ecg_jax.recordings import lead as lead_lib
from ecg_jax.recordings import resampling

RATE = 300
ENCODING = lead_lib.Encoding(RATE, 1000.0)
STATED = {'sampling_rate': 300.0, 'units': 'counts'}
_, COUNTS, _ = generator.generate_record(0, 3)


def write_mat(folder, counts, name='A1'):
  """A record as the challenge has them, with its header."""
  scipy.io.savemat(folder / f'{name}.mat', {'val': counts[None]}, format='4')
  (folder / f'{name}.hea').write_text(
    f'{name} 1 300 {len(counts)} 05:05:15 1/05/2000 \n'
    f'{name}.mat 16+24 1000/mV 16 0 -127 0 0 ECG \n'
  )
  return folder / f'{name}.hea'


def write_wfdb(folder, counts, name='a', fmt='16', names=('MLII',)):
  wfdb.wrsamp(
    name,
    fs=RATE,
    units=['mV'] * len(names),
    sig_name=list(names),
    d_signal=np.atleast_2d(counts.T).T.astype(np.int64),
    fmt=[fmt] * len(names),
    adc_gain=[1000.0] * len(names),
    baseline=[0] * len(names),
    write_dir=str(folder),
  )
  return folder / f'{name}.hea'


def write_raw(folder, text, counts=COUNTS, name='a'):
  """A WFDB header as it stands here, and its .dat."""
  counts.astype('<i2').tofile(folder / f'{name}.dat')
  path = folder / f'{name}.hea'
  path.write_text(text)
  return path


def write_edf(folder, channels, seconds=1, **fields):
  """channels: name -> (counts, unit)."""
  edf = edfio.Edf(
    [
      edfio.EdfSignal.from_digital(
        counts[: len(counts) // RATE * RATE].astype(np.int16),
        RATE,
        label=label,
        physical_dimension=unit,
        physical_range=(-32768, 32767),
      )
      for label, (counts, unit) in channels.items()
    ],
    **fields,
  )
  edf.write(folder / 'a.edf')
  return folder / 'a.edf'


def write_csv(folder, counts):
  (folder / 'a.csv').write_text(
    'time,ecg\n'
    + ''.join(f'{k / RATE:.4f},{v / 1000}\n' for k, v in enumerate(counts))
  )
  return folder / 'a.csv'


def write_npy(folder, array):
  np.save(folder / 'a.npy', array)
  return folder / 'a.npy'


def write_bdf(folder, counts, name='a'):
  """24-bit samples in uV."""
  signal = edfio.BdfSignal.from_digital(
    counts[: len(counts) // RATE * RATE].astype(np.int32),
    RATE,
    label='ECG',
    physical_dimension='uV',
    physical_range=(-(2**23), 2**23 - 1),
  )
  edfio.Bdf([signal]).write(folder / f'{name}.bdf')
  return folder / f'{name}.bdf'


def write_ishne(folder, counts, *, name='a', claimed=None, **fields):
  """An ISHNE Holter file, by its description.

  Args:
    folder: Where to write.
    counts: int16 [leads, samples].
    name: Of the file.
    claimed: Number of samples that the header states.
    fields: In place of: rate, leads (numbers of their names), resolutions (nV),
      checksum.
  """
  leads, samples = counts.shape
  numbers = fields.get('leads', [6] * leads)
  resolutions = fields.get('resolutions', [1000] * leads)

  def twelve(values):
    return struct.pack('<12h', *values, *[-9] * (12 - leads))

  extra = b'made up'
  header = b''.join([
    struct.pack('<i', len(extra)),
    struct.pack('<i', samples if claimed is None else claimed),
    struct.pack('<2i', 522, 522 + len(extra)),
    struct.pack('<h', 1),
    b'Ann'.ljust(40, b'\0'), b'Example'.ljust(40, b'\0'), b'7'.ljust(20, b'\0'),
    struct.pack('<2h', 2, 1), struct.pack('<12h', *[1] * 12),
    struct.pack('<h', leads),
    twelve(numbers), twelve([0] * leads), twelve(resolutions),
    struct.pack('<h', 0), b'digital'.ljust(40, b'\0'),
    struct.pack('<h', fields.get('rate', RATE)), bytes(80 + 80 + 88),
  ])  # fmt: skip
  assert len(header) == 512
  checksum = binascii.crc_hqx(header + extra, 0xFFFF)
  stated = struct.pack('<H', fields.get('checksum', checksum))
  content = b'ISHNE1.0' + stated + header + extra
  path = folder / f'{name}.ecg'
  path.write_bytes(content + counts.T.astype('<i2').tobytes())
  return path


def write_atc(folder, counts, *, name='a', resolution=1000, **fields):
  """An ATC file, by its description.

  Args:
    folder: Where to write.
    counts: int16 [leads, samples].
    name: Of the file.
    resolution: nV per count.
    fields: In place of: rate, encoding, checksum (a function of bytes).
  """
  checksum = fields.get('checksum', sum)

  def block(key, content):
    whole = key + struct.pack('<I', len(content)) + content
    return whole + struct.pack('<I', checksum(whole) % 2**32)

  blocks = [
    b'ALIVE\0\0\0' + struct.pack('<I', 4),
    block(b'info', b'2010-12-08T15:54:23.245+10:00'.ljust(264, b'\0')),
    block(
      b'fmt ',
      struct.pack(
        '<BHHBH', fields.get('encoding', 1), fields.get('rate', RATE),
        resolution, 14, 0,
      ),
    ),
    *(
      block(f'ecg{key}'.encode(), lead.astype('<i2').tobytes())
      for key, lead in zip(' 23456789abc', counts, strict=False)
    ),
    block(b'avg ', bytes(900)),
    block(b'ann ', struct.pack('<IIH', 300, 1500, 1)),
  ]  # fmt: skip
  path = folder / f'{name}.atc'
  path.write_bytes(b''.join(blocks))
  return path


def write_npz(folder, name='a', **arrays):
  np.savez(folder / f'{name}.npz', **arrays)
  return folder / f'{name}.npz'


def write_hdf5(folder, name='a', **arrays):
  with h5py.File(folder / f'{name}.h5', 'w') as file:
    for key, array in arrays.items():
      file[key] = array
  return folder / f'{name}.h5'


def write_dicom(folder, counts, *, name='a', unit='uV', **fields):
  """A DICOM file of an ECG and of a median beat.

  Args:
    folder: Where to write.
    counts: int16 [leads, samples].
    name: Of the file.
    unit: Of the samples; None to state neither it nor the sensitivity.
    fields: In place of: sensitivity, correction, baseline, padding, rate.
  """

  def code(value, meaning):
    item = pydicom.Dataset()
    item.CodeValue, item.CodeMeaning = value, meaning
    item.CodingSchemeDesignator = 'UCUM'
    return [item]

  def group(samples, originality):
    item = pydicom.Dataset()
    item.WaveformOriginality = originality
    item.NumberOfWaveformChannels, item.NumberOfWaveformSamples = samples.shape
    item.SamplingFrequency = fields.get('rate', RATE)
    item.WaveformBitsAllocated = 16
    item.WaveformSampleInterpretation = 'SS'
    if 'padding' in fields:
      item.WaveformPaddingValue = struct.pack('<h', fields['padding'])
    item.WaveformData = samples.T.astype('<i2').tobytes()
    item.ChannelDefinitionSequence = []
    for _, lead in zip(samples, ('I', 'II', 'III', 'V1'), strict=False):
      channel = pydicom.Dataset()
      channel.ChannelSourceSequence = code('2:1', f'Lead {lead} (Einthoven)')
      channel.WaveformBitsStored = 16
      if unit is not None:
        channel.ChannelSensitivity = fields.get('sensitivity', 1)
        channel.ChannelSensitivityUnitsSequence = code(unit, 'unit')
        correction = fields.get('correction', 1)
        channel.ChannelSensitivityCorrectionFactor = correction
        channel.ChannelBaseline = fields.get('baseline', 0)
      item.ChannelDefinitionSequence.append(channel)
    return item

  file = pydicom.Dataset()
  file.PatientName = 'Example^Ann'
  file.SOPClassUID = '1.2.840.10008.5.1.4.1.1.9.1.2'
  file.SOPInstanceUID = pydicom.uid.generate_uid()
  file.WaveformSequence = [
    group(counts[:, :400] // 2, 'DERIVED'),
    group(counts, 'ORIGINAL'),
  ]
  file.file_meta = pydicom.dataset.FileMetaDataset()
  file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
  file.save_as(folder / f'{name}.dcm', enforce_file_format=True)
  return folder / f'{name}.dcm'


def open_recording(path, **options):
  return lead_lib.open_recording(path, ENCODING, **options)


def window_counts(recording, *part, **options):
  return resampling.window_counts(recording, ENCODING, *part, **options)


def counts_of(path, **options):
  return window_counts(open_recording(path, **options))


def recording_of(signal, sampling_rate=300, units='mV'):
  return lead_lib.from_array(
    signal,
    sampling_rate=sampling_rate,
    units=units,
    counts_per_millivolt=ENCODING.counts_per_millivolt,
  )


def write_segments(folder):
  """Ten seconds of V5 beside MLII, a gap of four, five seconds of V5."""
  both = np.stack([COUNTS, COUNTS // 2], axis=1)
  write_wfdb(folder, both[:3000], 's1', names=('MLII', 'V5'))
  write_wfdb(folder, COUNTS[3000:4500], 's2', names=('V5',))
  (folder / 's_layout.hea').write_text(
    's_layout 2 300 0\n~ 0 1000/mV 0 0 0 0 0 MLII\n~ 0 1000/mV 0 0 0 0 0 V5\n'
  )
  (folder / 's.hea').write_text(
    's/4 2 300 5700\ns_layout 0\ns1 3000\n~ 1200\ns2 1500\n'
  )
  return folder / 's.hea'


def write_mat5(folder, **variables):
  scipy.io.savemat(folder / 'a.mat', variables)
  return folder / 'a.mat'


def labchart(blocks, *, times=(0.0,), rates=(300.0, 300.0), **others):
  """The variables that LabChart exports.

  Args:
    blocks: For each block the samples of each channel.
    times: Seconds at which blocks begin.
    rates: Hz, of each channel.
    others: Further variables, in place of those here.
  """
  parts = [part for block in blocks for part in block]
  ends = np.cumsum([len(part) for part in parts], dtype=float)
  starts = ends - [len(part) for part in parts] + 1
  shape = len(blocks), len(blocks[0])
  start, end = starts.reshape(shape).T, ends.reshape(shape).T
  empty = end < start
  return {
    'data': np.concatenate(parts)[None].astype(float),
    'datastart': np.where(empty, -1, start),
    'dataend': np.where(empty, -1, end),
    'titles': np.array(['Breath', 'ECG lead'][: shape[1]]),
    'samplerate': np.repeat(np.array([rates]).T[: shape[1]], shape[0], 1),
    'tickrate': np.full((1, shape[0]), 300.0),
    'unittext': np.array(['V', 'mV']),
    'unittextmap': np.repeat(np.array([[1.0], [2.0]])[: shape[1]], shape[0], 1),
    'blocktimes': 737_000 + np.array([times]) / 86_400,
    'rangemin': np.zeros(shape[::-1]),
    'com': np.zeros((0, 5)),
    **others,
  }


def write_brainvision(
  folder, counts, name='a', form='INT_16', order='MULTIPLEXED', **fields
):
  """A BrainVision header and its file.

  Args:
    folder: Where to write.
    counts: [channels, samples], of 1/2 uV.
    name: Of the files.
    form: Of the samples, ASCII for text.
    order: Of the samples.
    fields: Keys and values of the header, in place of those here; `big` for
      samples whose highest byte is first.
  """
  big = fields.pop('big', False)
  rows = np.asarray(counts)
  table = rows if order == 'VECTORIZED' else rows.T
  kind = {'INT_16': 'i2', 'INT_32': 'i4', 'IEEE_FLOAT_32': 'f4'}.get(form)
  lines = {
    'Codepage': 'UTF-8', 'DataFile': f'{name}.eeg',
    'MarkerFile': f'{name}.vmrk',
    'DataFormat': 'BINARY' if kind else 'ASCII', 'DataOrientation': order,
    'NumberOfChannels': len(rows), 'DataPoints': rows.shape[1],
    'SamplingInterval': 1e6 / RATE, 'BinaryFormat': form,
    'UseBigEndianOrder': 'YES' if big else 'NO', 'DecimalSymbol': ',',
    'SkipLines': int(order != 'VECTORIZED'),
    'SkipColumns': int(order == 'VECTORIZED'),
    **{f'Ch{k + 1}': f'{x},,0.5,µV' for k, x in zip(
      range(len(rows)), ('ECG', 'Fp1', r'F\1z'), strict=False)},
    **fields,
  }  # fmt: skip
  text = '\n'.join(f'{key}={value}' for key, value in lines.items())
  path = folder / f'{name}.vhdr'
  path.write_text(
    f'Brain Vision Data Exchange Header File Version 1.0\n; by us\n{text}\n'
    '[Comment]\nDataFile=other.eeg\n', encoding='utf-8',
  )  # fmt: skip
  data = folder / f'{name}.eeg'
  if kind:
    table.astype('<>'[big] + kind).tofile(data)
  else:
    start = ['c0 c1 c2'] * (order != 'VECTORIZED')
    names = [f'c{k} ' * (order == 'VECTORIZED') for k in range(len(table))]
    data.write_text('\n'.join(start + [
      first + ' '.join(f'{x:.2f}' for x in row).replace('.', ',')
      for first, row in zip(names, table, strict=True)
    ]))  # fmt: skip
  return path
