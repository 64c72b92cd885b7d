"""How the processes of one training find each other: started by torchrun, by SLURM's srun, or by Lightning itself."""

from collections.abc import Mapping
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from atomslim.errors import ConfigError

_OWN_RANK = "NODE_RANK"
"""Number of the machine, for Lightning, where users start the program on each by hand."""

_SRUN = "SLURM_STEP_NUM_TASKS"
"""srun alone sets it: SLURM_NTASKS is in the batch script's own environment, too, which runs once."""


def require_as_many_processes(options: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Raise ConfigError unless as many processes were started as the options say: others would train side by side."""
    machines = _number(options.get("nodes"))
    wanted = _number(options.get("devices")) * machines
    for launcher, name in (("torchrun", "WORLD_SIZE"), ("srun", _SRUN)):
        if name in environment:
            if int(environment[name]) != wanted:
                raise ConfigError(
                    f"{launcher} started {environment[name]} processes, and devices × nodes is {wanted}: give "
                    "--set devices=PROCESSES_PER_MACHINE --set nodes=MACHINES that fit"
                )
            return
    require_machines(machines, environment)


def require_machines(machines: int, environment: Mapping[str, str]) -> None:
    """Raise ConfigError for a training on several machines that nobody starts on the others: it would wait for them."""
    if machines > 1 and not any(name in environment for name in ("WORLD_SIZE", _SRUN, _OWN_RANK)):
        raise ConfigError(
            f"nodes {machines}: nothing started this training on other machines, so it would wait for them for ever: "
            "start it with srun or torchrun (or set NODE_RANK, MASTER_ADDR and MASTER_PORT on each), or leave nodes out"
        )


def _number(value: object) -> int:
    """Return a number of processes or machines; 1 where there is none, or something else, which is refused later."""
    return value if isinstance(value, int) and value > 0 else 1


def is_first(processes: int, environment: Mapping[str, str]) -> bool:
    """Say whether this process is the first of a training's, which writes its files; one process alone is."""
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", *(["SLURM_PROCID"] if _SRUN in environment else []))
    return processes == 1 or not any(int(environment.get(name) or 0) for name in names)


def cluster_environment(processes: int, environment: Mapping[str, str]) -> ClusterEnvironment | None:
    """Say where Lightning reads the number of each process; None: Lightning finds out.

    One process alone has the number 0, whatever a launcher says: the processes of a study train each for itself. Under
    SLURM, Lightning's own way of requeueing is left out, for the conductor saves and resumes.

    Raises ConfigError for tasks of SLURM that do not fit.
    """
    if processes == 1:
        return LightningEnvironment()
    if TorchElasticEnvironment.detect() or "SLURM_JOB_ID" not in environment:
        return None
    if _SRUN not in environment:
        return LightningEnvironment()
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise ConfigError(
            f"{environment[_SRUN]} tasks of srun, and SLURM does not say how many are on each machine: start them with "
            "--ntasks-per-node"
        ) from error
