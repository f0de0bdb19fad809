"""Which processes a cluster starts, by its environment: Slurm, Open MPI, Kubernetes, JAX."""

import os
import sys
import types

import jax
import pytest

from mixvpr_jax import InputError, distributed
from mixvpr_jax.processes import ALONE, ProcessConfig


@pytest.fixture
def environment(monkeypatch):
    """Sets these variables of a cluster, and no other."""

    def become(variables):
        for name in ("OMPI_COMM_WORLD_SIZE", "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"):
            monkeypatch.delenv(name, raising=False)
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return become


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({"SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_NTASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4", "SLURM_NTASKS": "1"}, True),
        ({}, True),
    ],
)
def test_one_task_of_a_cluster_joins_nobody(variables, asked, environment, monkeypatch):
    """It has all GPUs, and no port that another command of the same job has taken."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **named: calls.append(named))
    environment(variables)
    with distributed.joined(ALONE, training=False):
        assert bool(calls) == asked
    assert all(named["cluster_detection_method"] is None for named in calls)


@pytest.mark.parametrize(
    ("variables", "method"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "deactivate"),
        ({"SLURM_NTASKS": "1"}, "deactivate"),
        ({"SLURM_NTASKS": "4"}, None),  # which divides a machine's GPUs
    ],
)
def test_a_coordinator_is_enough(variables, method, environment, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **named: calls.append(named))
    environment(variables)
    with distributed.joined(ProcessConfig("127.0.0.1:1", 2, 1), training=False):
        assert [named["cluster_detection_method"] for named in calls] == [method]


def test_a_coordinator_in_the_environment_alone(environment, monkeypatch):
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    environment({"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"})
    with (
        pytest.raises(InputError, match="^JAX_COORDINATOR_ADDRESS: expected a cluster .*; unset"),
        distributed.joined(ALONE, training=False),
    ):
        pass


def in_a_pod(environment, monkeypatch, **variables):
    """A pod whose service account may ask for nothing."""

    def load_incluster_config():
        raise RuntimeError("Service token file does not exist.")

    config = types.SimpleNamespace(load_incluster_config=load_incluster_config)
    monkeypatch.setitem(sys.modules, "kubernetes", types.SimpleNamespace(config=config))
    # By other tests, which JAX would refuse first.
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    environment({"KUBERNETES_SERVICE_HOST": "10.0.0.1", **variables})


def test_a_pod_alone(environment, monkeypatch, caplog, recwarn):
    in_a_pod(environment, monkeypatch)
    with distributed.joined(ALONE, training=False):
        pass
    line = "Kubernetes tells of no other processes (Service token file does not exist.); running"
    assert caplog.messages == [f"{line} alone"]

    caplog.clear()
    monkeypatch.setitem(sys.modules, "kubernetes", None)  # as if not installed
    with distributed.joined(ALONE, training=False):
        pass
    assert (caplog.messages, list(recwarn)) == ([], [])


def test_a_pod_of_several_does_not_go_on_alone(environment, monkeypatch):
    in_a_pod(environment, monkeypatch, JOB_COMPLETION_INDEX="1")
    message = "Kubernetes: expected to learn of the job's other pods, found: Service token file"
    with (
        pytest.raises(InputError, match=message),
        distributed.joined(ALONE, training=False),
    ):
        pass


def test_errors_of_other_clusters_stay(environment, monkeypatch):
    def initialize(*_, **__):
        raise RuntimeError("Failed to recognize coordinator address worker-0")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    environment({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    with (
        pytest.raises(RuntimeError, match="worker-0"),
        distributed.joined(ALONE, training=False),
    ):
        pass
