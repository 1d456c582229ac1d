"""The manifest of docs/clusters.md, by the published schemas of Kubernetes."""

import copy
import re

import kubernetes_validate
import pytest
import yaml

from tests import helpers

VERSION = '1.37'


@pytest.fixture(scope='module')
def manifest():
  page = (helpers.ROOT / 'docs' / 'clusters.md').read_text()
  assert f'Kubernetes {VERSION}' in page
  [text] = re.findall(r'^```yaml\n(.*?)^```', page, re.M | re.S)
  return list(yaml.safe_load_all(text))


def test_it_is_valid(manifest):
  for resource in manifest:
    kubernetes_validate.validate(resource, VERSION, strict=True)


def test_a_misspelt_field_would_be_found(manifest):
  job = copy.deepcopy(manifest[1])
  job['spec']['completionmode'] = job['spec'].pop('completionMode')
  with pytest.raises(kubernetes_validate.ValidationError, match='completionm'):
    kubernetes_validate.validate(job, VERSION, strict=True)


def test_its_names_fit_together(manifest):
  service, job = manifest
  name, pod = job['metadata']['name'], job['spec']['template']['spec']
  assert service['spec']['selector'] == {'batch.kubernetes.io/job-name': name}
  assert service['metadata']['name'] == pod['subdomain']
  [container] = pod['containers']
  [volume], [mount] = pod['volumes'], container['volumeMounts']
  assert volume['name'] == mount['name']
  [command] = container['args']
  assert f'--workdir {mount["mountPath"]}/' in command
  assert f'--coordinator_address {name}-0.{pod["subdomain"]}:' in command
  assert f'--num_processes {job["spec"]["completions"]} ' in command
