"""Runs a training on Lightning's Trainer: one process or many, which find each other, on CPU or GPU."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from atomslim.data.mixing import Mixture
from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.card import write_card
from atomslim.models.losses import Term
from atomslim.models.model_file import load
from atomslim.models.modes import parameter_count
from atomslim.threads import limit_threads
from atomslim.train.boards import REQUIRED
from atomslim.train.dataloaders import Endless, training_feed
from atomslim.train.loop import Conductor, interrupts_of
from atomslim.train.optimisation import Objective, TrainingModule
from atomslim.train.options import RunOptions
from atomslim.train.reporting import Summary, draw_learning_curve
from atomslim.train.run_folder import RunFolder
from atomslim.train.run_state import require_version
from atomslim.train.tasks import LearningTask, loss_terms

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
    """Raise ConfigError for training on several machines that nothing has started on the others: it would wait."""
    if machines > 1 and not any(name in environment for name in ("WORLD_SIZE", _SRUN, _OWN_RANK)):
        raise ConfigError(
            f"nodes {machines}: nothing started this training on other machines, so it would wait for them for ever: "
            "start it with srun or torchrun (or set NODE_RANK, MASTER_ADDR and MASTER_PORT on each), or leave nodes out"
        )


def _number(value: object) -> int:
    """Return a number of processes or machines; 1 if there is none, or an invalid one, which is refused later."""
    return value if isinstance(value, int) and value > 0 else 1


def is_first(processes: int, environment: Mapping[str, str]) -> bool:
    """Say whether this process is the first of a training run, which writes its files; a single process is."""
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", *(["SLURM_PROCID"] if _SRUN in environment else []))
    return processes == 1 or not any(int(environment.get(name) or 0) for name in names)


def cluster_environment(processes: int, environment: Mapping[str, str]) -> ClusterEnvironment | None:
    """Say where Lightning reads the number of each process; None: Lightning detects it.

    A single process has the number 0, whatever a launcher says: the processes of a study train separately. Under
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


_PRECISIONS: dict[str, Any] = {"32": "32-true", "64": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

_QUIET = (
    ".*does not have many workers.*",
    ".*GPU available but not used.*",
    ".*find_unused_parameters=True was specified.*",  # which weights are used depends on the targets
    ".*barrier.*using the device under current context.*",
    ".*Total length of.*",
    ".*is a wrapper around a raw string.*",
    ".*LeafSpec.*is deprecated.*",  # Lightning's use of torch
    ".*module.* is in eval mode.*",
    ".*`srun` command is available.*",  # a study's processes, and one machine's, do without it
)


class Feeding(TrainingModule):
    """The training module with its data, which can be read only after the processes have started."""

    def __init__(
        self,
        model: BlockModel,
        terms: Sequence[Term],
        options: RunOptions,
        mixture: Mixture,
        conductor: Conductor,
        objective: Objective | None,
    ) -> None:
        super().__init__(model, terms, options.optimiser, objective)
        self.run_options, self.mixture, self.conductor = options, mixture, conductor

    def train_dataloader(self) -> Endless:
        """Return the batches, from where a saved state left off."""
        trainer = self.trainer
        feed = training_feed(
            self.mixture,
            self.run_options,
            self.model.topology,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        saved = self.conductor.saved
        if saved is not None:
            position = {key: int(saved["clock"][key]) for key in ("epoch", "position")}
            feed.loader.load_state_dict({**position, "of": saved["feed"]})
        self.conductor.feed = feed
        return feed


def train(
    model: BlockModel,
    tasks: list[LearningTask],
    options: RunOptions,
    folder: RunFolder,
    *,
    operation: str,
    show: bool = True,
    objective: Objective | None = None,
) -> Summary:
    """Train ``model`` in place on its tasks, and leave the best and the last weights in the run's folder.

    It learns from labels unless an ``objective`` says something else. A state in the folder is resumed. Returns
    baselines, results and times.

    Raises:
        ConfigError: options that contradict each other or the model, or no such device.
        DataError: structures or labels that cannot be learned from.
        AtomslimError: a loss that is not finite.
        KeyboardInterrupt: Ctrl-C, once the running step is saved; its message says so.

    """
    limit_threads()
    terms = [term for task in tasks for term in _terms(model, task, options)]
    _require_precision(model, options)
    require_machines(options.nodes, os.environ)
    for name, wanted in options.boards.items():
        if wanted:
            REQUIRED[name]()
    conductor = Conductor(operation, options, tasks, folder, show=show)
    if folder.has_state:
        conductor.saved = folder.load_state()
        require_version(conductor.saved)
    if options.precision == "64":
        model.double()
    model.checkpoint_blocks = options.checkpoint_blocks
    mixture = Mixture([task.part("train") for task in tasks], options.temperature)
    module = Feeding(model.train(), terms, options, mixture, conductor, objective)
    with _quiet(), interrupts_of(folder.path):
        trainer = _trainer(options, conductor)
        try:
            trainer.fit(module)
        finally:
            folder.end_metrics()
    summary = Summary.of(conductor, parameters=parameter_count(model))
    if trainer.is_global_zero:
        folder.write_json("summary.json", summary.as_dict())
        draw_learning_curve(folder.path)
        best = folder.path / "best.safetensors"
        write_card(load(best), best, summary.sentences())
    return summary


def _terms(model: BlockModel, task: LearningTask, options: RunOptions) -> list[Term]:
    return loss_terms(task, model.task(task.name), free_atoms_only=options.free_atoms_only)


def _require_precision(model: BlockModel, options: RunOptions) -> None:
    conservative = [task.name for task in model.tasks.values() if task.conservative]
    if options.precision in {"bf16", "fp16"} and conservative:
        raise ConfigError(
            f"precision {options.precision}: task {conservative[0]} has conservative forces, whose second derivatives "
            "need full precision: use 32, or direct forces"
        )


def _trainer(options: RunOptions, conductor: Conductor) -> lightning.Trainer:
    if options.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("accelerator gpu: no CUDA device is available to torch here: use cpu")
    processes = options.devices * options.nodes
    optimiser = options.optimiser
    return lightning.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        strategy=DDPStrategy(find_unused_parameters=True) if processes > 1 else "auto",
        plugins=cluster_environment(processes, os.environ),
        precision=_PRECISIONS[options.precision],
        gradient_clip_val=optimiser.clip,
        gradient_clip_algorithm=None if optimiser.clip is None else optimiser.clip_by,
        callbacks=[conductor],
        max_epochs=1,  # of Lightning: batches never end, the conductor stops
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        default_root_dir=conductor.folder.path,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Lightning's remarks about intended settings."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in _QUIET:
            warnings.filterwarnings("ignore", message=message)
        yield
