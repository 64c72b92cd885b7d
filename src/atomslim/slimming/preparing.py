"""The first stages: what the teacher costs, the choice of the student, structures to label, and their labels.

Numbers of structures and of steps of the teacher's dynamics are chosen once, by the teacher's cost, and noted.
"""

from pathlib import Path
from typing import Any

import numpy as np

from atomslim.atoms.sample import ENERGIES
from atomslim.data.container import Container
from atomslim.data.splits import evenly
from atomslim.data.staging import write_container
from atomslim.errors import AtomslimError, ConfigError
from atomslim.labelling.changes import repeated
from atomslim.labelling.pool import NAME as POOL
from atomslim.labelling.pool import Pool, pool
from atomslim.labelling.teachers import Session
from atomslim.labelling.unlabelled import Unlabelled
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import load, save
from atomslim.report.console import plain_console
from atomslim.slimming.recipe import with_random_weights
from atomslim.slimming.students import candidates, choose
from atomslim.slimming.work import Work

DYNAMICS, HELD_OUT, LABELS = 0.1, 0.04, 0.15
"""Shares of the budget: for the teacher's dynamics, for those of held-out frames, and for labels of the pool."""

STARTS = 4
"""Most structures from which trajectories of the pool start, at each temperature."""

FRAMES, SOME = 20, 4
"""Frames of a trajectory in the pool, and of one that is held out, at each temperature."""

EVERY, SELDOM = 5, 25
"""Steps between frames: at least, and at most."""

_LEAST, _ENOUGH = 3, 30
"""Fewest frames of a trajectory, and fewest structures of a pool at any budget."""

_FEW = 4
"""Fewest labelled structures for training, validation and test."""


def time_teacher(work: Work) -> None:
    """Measure the teacher's cost, on the first structure that it can label."""
    if "teacher" in work.done:
        return
    if all(len(repeated(atoms, work.options.width)) == 1 for atoms in work.structures):
        raise ConfigError(
            f"{work.frames[0].name}: a single atom has no forces to learn from: give larger structures, or a cell and "
            "--width, by which it is repeated"
        )
    with work.journal.stage("teacher", work.teacher.name) as facts, work.asking() as session:
        reasons = []
        for frame in work.frames:
            atoms = repeated(frame.atoms, work.options.width)
            try:
                found = session.ask(atoms)
                each = min(session.seconds(_moved(atoms, step)) for step in range(2))
            except Unlabelled as reason:
                reasons.append(f"{frame.name}: {reason}")
                continue
            if "forces" not in found:
                raise ConfigError(f"{work.teacher.name}: gives no forces, which a student for dynamics learns from")
            facts |= {"seconds of the first": each, "atoms": len(atoms), "what": dict(session.what)}
            facts["seconds per structure"] = _mean_of_sizes(work, session, {len(atoms): each})
            work.tell(f"teacher: {1000 * each:.3g} ms for {len(atoms)} atoms; gives {', '.join(sorted(found))}")
            return
        raise AtomslimError(f"{work.teacher.name}: no labels for any structure; {reasons[0]}")


def _mean_of_sizes(work: Work, session: Session, known: dict[int, float]) -> float:
    """Return the mean time over the structures that dynamics may start from, which may differ in size."""
    times = []
    for index in evenly(len(work.frames), STARTS):
        atoms = repeated(work.frames[index].atoms, work.options.width)
        if len(atoms) not in known:
            try:
                known[len(atoms)] = min(session.seconds(_moved(atoms, step)) for step in range(3))
            except Unlabelled:
                continue
        times.append(known[len(atoms)])
    return float(np.mean(times or list(known.values())))


def choose_student(work: Work) -> None:
    """Time the candidates on the user's structures, print what they cost, and choose one."""
    if "student" in work.done:
        return
    with work.journal.stage("student", work.options.student or f"one that has {work.options.target}") as facts:
        path = work.work_folder / "student.safetensors"
        facts["student"] = str(path.relative_to(work.folder))
        if work.options.student:
            model = load(work.options.student)
            path.parent.mkdir(exist_ok=True)
            save(model, path)
            facts |= {"name": work.options.student, "why": "as asked for"}
            return
        options, atoms = work.options, [repeated(one, work.options.width) for one in work.structures]
        there = candidates(
            atoms,
            work.source,
            forces=options.forces,
            task=options.task,
            python=options.teacher_python,
            timeout=options.timeout,
            tell=work.tell,
        )
        choice = choose(there, options.target)
        if work.progress:
            plain_console(stderr=True).print(there.table(choice).rich())
        work.tell(str(choice))
        one = choice.candidate
        given = work.source if isinstance(work.source, BlockModel) and one.kind == "cut of the teacher" else None
        path.parent.mkdir(exist_ok=True)
        save(one.recipe.build(atoms, given), path)
        facts |= {"name": one.name, "why": choice.why, "kind": one.kind, "milliseconds": one.milliseconds}
        facts |= {"teacher's milliseconds": there.milliseconds, "recipe": one.recipe.as_dict()}
        facts["candidates"] = [list(row) for row in there.table(choice).rows]


def make_pools(work: Work) -> None:
    """Make the structures to label, and those that are held out."""
    _make_pool(work, "held-out pool", HELD_OUT, SOME)
    _make_pool(work, "pool", DYNAMICS, FRAMES)


def _make_pool(work: Work, name: str, share: float, frames: int) -> None:
    """Make a pool with so many frames at each temperature, as far as a fraction of the budget allows."""
    if name in work.done:
        return
    kelvin, each = work.options.temperatures, work.done["teacher"]["seconds per structure"]
    moving = _trajectories(work, share * work.options.seconds / len(kelvin), frames, alone=name == "held-out pool")
    if name == "held-out pool" and not moving["frames"]:
        work.journal.done[name] = {"seconds": 0.0, "structures": 0}
        return
    with work.journal.stage(name, _said(moving, kelvin)) as facts:
        made = _pool(work, name, moving, int(LABELS * work.options.seconds / max(each, 1e-6)))
        facts |= {"structures": len(made.container), "dynamics": moving, "kinds": dict(made.kinds)}


def _pool(work: Work, name: str, moving: dict[str, int], affordable: int) -> Pool:
    """Make a pool; the held-out one has frames of dynamics only, with other random numbers."""
    options, alone = work.options, name == "held-out pool"
    copies = {"rattled": 0, "strained": 0, "volumes": 0} if alone else {}
    return pool(
        list(options.structures),
        work.work_folder / name,
        work.source if moving["frames"] else None,
        task=options.task,
        timeout=options.timeout,
        teacher_python=options.teacher_python if moving["frames"] else None,
        reader=options.reader,
        size=min(options.size, max(affordable, _ENOUGH)),
        width=options.width,
        features=options.features or str(work.folder / work.done["student"]["student"]),
        temperatures=options.temperatures if moving["frames"] else (),
        starts=moving["starts"],
        frames=max(moving["frames"], 1),
        every=moving["every"],
        seed=options.seed + alone,
        **copies,
    )


def label_pools(work: Work) -> None:
    """Label both, and set some of the pool aside for validation, and for the test if nothing is held out."""
    if "labels" in work.done:
        return
    with work.journal.stage("labels", f"by {work.teacher.name}") as facts:
        if work.done["held-out pool"]["structures"]:
            work.label([_moving(work)], work.work_folder / "held-out")
        found = work.label([work.work_folder / "pool" / POOL], work.work_folder / "labelled")
        samples = list(found.container)
        facts["seconds per label"] = found.seconds / max(len(samples), 1)
        if len(samples) < _FEW:
            raise AtomslimError(
                f"{found.folder}: {len(samples)} labelled structures are too few to train, validate and test "
                "on: give more structures, a larger budget or a faster teacher"
            )
        chosen = np.random.default_rng(work.options.seed).permutation(len(samples))
        tenth = max(len(samples) // 10, 1)
        parts = {"validation": chosen[:tenth]}
        if not work.done["held-out pool"]["structures"]:
            parts["test"] = chosen[tenth : 2 * tenth]
        parts["train"] = chosen[sum(map(len, parts.values())) :]
        for name, numbers in parts.items():
            write_container(
                work.work_folder / f"{name}.samples", (samples[number] for number in sorted(numbers.tolist()))
            )
        facts |= {name: len(numbers) for name, numbers in parts.items()}
        if work.options.energies and ENERGIES not in found.given.labels:
            work.tell(f"{work.teacher.name}: gives no atomic energies, so students cannot learn them")
        facts |= {"skipped": len(found.skipped), "gives": list(found.given.labels), "faults": list(found.given.faults)}


def draw_weights(work: Work) -> None:
    """Give the student random weights, if the run is a control."""
    if work.options.start == "trained" or "weights" in work.done:
        return
    with work.journal.stage("weights", "random ones, instead of the trained ones") as facts:
        student, path = work.done["student"], work.work_folder / "random.safetensors"
        save(with_random_weights(load(work.folder / student["student"]), work.options.seed), path)
        named = {"name": f"{student['name']}, with random weights", "kind": "from scratch"}
        work.journal.done["student"] = {**student, **named}
        facts["student"] = str(path.relative_to(work.folder))


def test_set(work: Work) -> list[Any]:
    """Return the held-out structures with their labels."""
    if work.done["held-out pool"]["structures"]:
        return work.labelled("held-out")
    return list(Container(work.work_folder / "test.samples"))


def _moving(work: Work) -> Path:
    """Write the held-out frames of dynamics without the given structures, which are in the pool."""
    path = work.work_folder / "held-out.samples"
    frames = [one for one in Container(work.work_folder / "held-out pool" / POOL) if one.group.startswith("dynamics")]
    write_container(path, frames or list(Container(work.work_folder / "held-out pool" / POOL)))
    return path


def _trajectories(work: Work, seconds: float, frames: int, *, alone: bool) -> dict[str, int]:
    """Return what dynamics are affordable at each temperature: from several structures, or else from the first."""
    teacher = work.done["teacher"]
    starts = min(int(seconds / max(teacher["seconds per structure"], 1e-6) / (frames * SELDOM)), STARTS)
    if starts > 1 and not alone:
        return {"frames": frames, "every": SELDOM, "starts": starts}
    return _dynamics(seconds / max(teacher["seconds of the first"], 1e-6), frames) | {"starts": 1}


def _dynamics(steps: float, frames: int) -> dict[str, int]:
    """Return frames and steps between them, of trajectories of so many steps."""
    every = int(min(max(steps / frames, EVERY), SELDOM))
    count = int(min(steps / every, frames))
    return {"frames": count if count >= _LEAST else 0, "every": every}


def _said(moving: dict[str, int], temperatures: tuple[float, ...]) -> str:
    if not moving["frames"]:
        return "without dynamics, for which the teacher is too slow at this budget"
    kelvin = ", ".join(f"{temperature:g}" for temperature in temperatures)
    return f"with {moving['frames']} frames of the teacher's dynamics, {moving['every']} steps apart, at {kelvin} K"


def _moved(atoms: Any, step: int) -> Any:
    copy = atoms.copy()
    copy.rattle(0.01, seed=step)
    return copy
