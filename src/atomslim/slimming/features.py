"""Optional distillation of features for cuts of the teacher, before training on labels alone.

The teacher's answers for the pool are computed once: energies, forces, and the readout's features of every atom.
"""

from pathlib import Path

from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import load, save
from atomslim.slimming.settings import how_long, settings
from atomslim.slimming.work import Work
from atomslim.train.distill import distill
from atomslim.train.run_folder import begun


def require_cut(work: Work) -> None:
    """Raise ConfigError where a student that is not a cut of the teacher is to learn its features."""
    student, share = work.done["student"], work.options.distil_features
    if share and student.get("recipe", {}).get("start") != work.teacher.name:
        raise ConfigError(
            f"distil_features {share:g}: {student['name']} is not a cut of the teacher: their features cannot be "
            "compared: leave the option out, in a new folder"
        )


def learned(work: Work, start: Path, seconds: float) -> tuple[Path, float]:
    """Let the student in a file learn the teacher's features, too; gives its new file, and the seconds left."""
    share, path = work.options.distil_features, work.work_folder / "features.safetensors"
    if not share:
        return start, seconds
    if "features" not in work.done:
        with work.journal.stage("features", "learned from the teacher, with its energies and forces") as facts:
            save(_trained(work, start, share * seconds), path)
            facts["student"] = str(path.relative_to(work.folder))
    return path, (1 - share) * seconds


def _trained(work: Work, start: Path, seconds: float) -> BlockModel:
    full = work.source if isinstance(work.source, BlockModel) else load(work.teacher.name)
    task = work.options.task or next(iter(full.tasks))
    output = work.work_folder / "features"
    return distill(
        str(start),
        full,
        output=output,
        resume=begun(output, resume=True) is not None,
        progress=work.progress,
        tasks=[
            {
                "name": task,
                "data": str(work.work_folder / "train.samples"),
                "validation_data": str(work.work_folder / "validation.samples"),
            }
        ],
        teacher_cache=True,
        **how_long(work.options, seconds),
        **settings(work.options, work.options.learning_rate),
    )
