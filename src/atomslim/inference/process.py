"""Which of several processes this one is; they share work by number and need not communicate."""

import re
from collections.abc import Mapping

import torch

from atomslim.errors import ConfigError

_COUNTED = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
"""SLURM_NTASKS is no substitute: a batch script has it, too, and runs only once where srun is forgotten."""

_LOCAL = ("LOCAL_RANK", "SLURM_LOCALID")


def process_of(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return this process's number and how many there are, from torchrun or srun; (0, 1) without them.

    Raises:
        ConfigError: they are invalid.

    """
    for number, count in _COUNTED:
        if number in environment and count in environment:
            try:
                return parse_process(f"{environment[number]}/{environment[count]}")
            except ConfigError as error:
                raise ConfigError(f"environment variables {number} and {count}: {error}") from error
    return 0, 1


def parse_process(text: str) -> tuple[int, int]:
    """Parse "3/16": the fourth of 16 processes, counted from 0; raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d+)/(\d+)", text, flags=re.ASCII)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(f"process {text!r}: write its number, from 0, and how many there are, as in 3/16")
    return int(match[1]), int(match[2])


def own_device(device: str, environment: Mapping[str, str]) -> str:
    """Choose this process's GPU among those of its machine by its local number; other devices stay as they are."""
    local = next((environment[name] for name in _LOCAL if name in environment), "")
    if device != "cuda" or not local.isdigit() or torch.cuda.device_count() < 2:
        return device
    return f"cuda:{int(local) % torch.cuda.device_count()}"
