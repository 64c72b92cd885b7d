import pytest
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from atomslim.errors import ConfigError
from atomslim.train.trainer import cluster_environment, require_as_many_processes

SRUN = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({}, {"devices": 4}),
        ({"WORLD_SIZE": "4"}, {"devices": 2, "nodes": 2}),
        (SRUN, {"devices": 4}),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, {}),
        (SRUN | {"WORLD_SIZE": "8"}, {"devices": 8, "nodes": None}),
    ],
)
def test_as_many_processes_as_asked_for(environment: dict[str, str], options: dict[str, int]) -> None:
    require_as_many_processes(options, environment)


@pytest.mark.parametrize(("launcher", "environment"), [("torchrun", {"WORLD_SIZE": "4"}), ("srun", SRUN)])
def test_processes_that_would_train_side_by_side_are_refused(launcher: str, environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"{launcher} started 4 processes, and devices × nodes is 2"):
        require_as_many_processes({"devices": 2}, environment)


def test_a_process_knows_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SRUN | {"SLURM_NTASKS_PER_NODE": "4", "SLURM_LOCALID": "2"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = cluster_environment(4, environment)
    assert isinstance(found, SLURMEnvironment)
    assert not found.auto_requeue
    assert (found.global_rank(), found.local_rank(), found.world_size()) == (2, 2, 4)
    assert isinstance(cluster_environment(1, environment), LightningEnvironment)  # one of a study's
    assert isinstance(cluster_environment(4, {"SLURM_JOB_ID": "7"}), LightningEnvironment)  # srun was not used
    assert cluster_environment(4, {}) is None


def test_tasks_that_slurm_does_not_place_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="--ntasks-per-node"):
        cluster_environment(4, SRUN)
