"""A throw-away SLURM of two nodes on this machine, for tests.

Each daemon is in namespaces of its own, so that a node has its own name and
processes, as a host has, and dies as one: with all that runs on it. All end
with the process that started them, and nothing is left outside of a folder.
"""

import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import time

NODES = ('n1', 'n2')

_CONFIG = """\
ClusterName=throwaway
SlurmctldHost=controller(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthInfo=socket={folder}/munge,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=1
SlurmdTimeout=10
KillWait=20
MinJobAge=3600
SchedulerParameters=bf_interval=1,sched_interval=2
GresTypes=gpu
NodeName=n1 NodeAddr=127.0.0.1 Port={n1} CPUs=8 Gres=gpu:2
NodeName=n2 NodeAddr=127.0.0.1 Port={n2} CPUs=8 Gres=gpu:2
PartitionName=main Nodes=n1,n2 Default=YES GraceTime=15
PartitionName=urgent Nodes=n1,n2 PriorityTier=2
"""


_HOST = (
  'nice -n 12 setpriv --pdeathsig KILL unshare --mount --uts --pid --mount-proc'
  ' --fork --kill-child'
)
"""Runs a command that sees a host of its own, which ends with this process."""


def why_not():
  """What is missing for a cluster here; '' if nothing is."""
  for program in ('slurmctld', 'munged', 'unshare'):
    if not shutil.which(program, path=f'{os.environ["PATH"]}:/usr/sbin'):
      return f'{program} is missing (apt-get install slurm-wlm munge)'
  tried = subprocess.run(['unshare', '--mount', 'true'], capture_output=True)
  return 'namespaces need root' if tried.returncode else ''


def _free_ports(count):
  probes = [socket.socket() for _ in range(count)]
  for probe in probes:
    probe.bind(('127.0.0.1', 0))
  ports = [probe.getsockname()[1] for probe in probes]
  for probe in probes:
    probe.close()
  return ports


class Cluster:
  """The daemons; a context manager that ends them."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self._daemons: dict[str, subprocess.Popen] = {}
    names = ('controller', *NODES)
    ports = dict(zip(names, _free_ports(3), strict=True))
    for name in ('state', *NODES):
      (folder / name).mkdir()
    (folder / 'slurm.conf').write_text(_CONFIG.format(folder=folder, **ports))
    (folder / 'hosts').write_text(f'127.0.0.1 localhost {" ".join(names)}\n')
    # SLURM only counts the devices of GPUs, so any devices stand for them.
    (folder / 'gres.conf').write_text('Name=gpu File=/dev/null,/dev/zero\n')
    (folder / 'key').write_bytes(os.urandom(1024))
    (folder / 'key').chmod(0o600)
    self.environment = {
      **os.environ,
      'PATH': f'{os.environ["PATH"]}:/usr/sbin',
      'SLURM_CONF': str(folder / 'slurm.conf'),
    }

  def __enter__(self):
    files = [
      f'--{name}={self.folder}/{file}'
      for name, file in (
        ('socket', 'munge'),
        ('key-file', 'key'),
        ('pid-file', 'munge.pid'),
        ('log-file', 'munge.log'),
        ('seed-file', 'munge.seed'),
      )
    ]
    try:
      self._start('munge', ['munged', '--foreground', '--force', *files])
      self._start('controller', ['slurmctld', '-D'])
      for node in NODES:
        self.start(node)
      self.wait(lambda: self.states() == ['idle', 'idle'], 60)
    except BaseException:
      self.__exit__()
      raise
    return self

  def __exit__(self, *_):
    for name in list(self._daemons):
      self.kill(name)

  def _start(self, name, command):
    """Starts a daemon as a host of that name."""
    script = (
      f'hostname {name} && mount --bind {self.folder}/hosts /etc/hosts'
      f' && exec {shlex.join(command)}'
    )
    log = (self.folder / f'{name}.log').open('a')
    with log:
      self._daemons[name] = subprocess.Popen(
        [*_HOST.split(), 'sh', '-c', script],
        env=self.environment,
        stdout=log,
        stderr=log,
      )

  def start(self, node):
    """Starts a node."""
    self._start(node, ['slurmd', '-D', '-N', node])

  def kill(self, node):
    """Ends a node at once, with all that runs on it, as if switched off."""
    with self._daemons.pop(node) as daemon:
      daemon.kill()

  def run(self, *command, **options):
    """Runs a command of SLURM's; returns what it prints."""
    done = subprocess.run(
      command,
      env=self.environment,
      capture_output=True,
      text=True,
      timeout=100,
      **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

  def states(self):
    """The state of each node."""
    done = subprocess.run(
      ['sinfo', '-h', '-N', '-p', 'main', '-o', '%t'],
      env=self.environment,
      capture_output=True,
      text=True,
      timeout=100,
    )
    return done.stdout.split()

  def wait(self, condition, seconds):
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
      assert time.monotonic() < end, self.logs()
      time.sleep(0.1)

  def logs(self):
    """The last lines that each daemon wrote."""
    return '\n'.join(
      f'{path.name}: {path.read_text()[-2000:]}'
      for path in sorted(self.folder.glob('*.log'))
    )
