"""Writing an Orb model's weights in the format of the package's trainer, for its calculator."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atomslim.errors import ConfigError
from atomslim.families.orb.checkpoint import OWN, theirs_of
from atomslim.families.orb.model import Orb
from atomslim.families.orb.package import building, network
from atomslim.files import atomic_write
from atomslim.models.metadata import Metadata
from atomslim.models.tasks import Task
from atomslim.models.tensors import save_archive

ELEMENTS = 118


def write_orb(model: Orb, path: Path) -> None:
    """Write weights for ``load_model`` of the package; raises ConfigError for what it cannot express."""
    why = next(_obstacles(model), None)
    if why is not None:
        raise ConfigError(f"the package cannot hold {why}: save the model as .safetensors")
    content = {**_tensors(model), OWN: Metadata.of(model).model_dump_json()}
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        save_archive(content, stream)


def _obstacles(model: Orb) -> Iterator[str]:
    if not model.num_blocks:
        yield "a model without blocks"
    if len(model.tasks) != 1:
        yield f"{len(model.tasks)} tasks (give the model one with atomslim.train.start.with_tasks)"
        return
    task = model.task()
    energy, kinds = task.of_kind("energy"), {target.kind for target in task.targets}
    forces = kinds - {"energy"}
    if energy is None or len(task.targets) != 2 or forces not in ({"conservative_forces"}, {"direct_forces"}):
        yield "other targets than an energy with its forces"
        return
    if energy.reduction != "sum":
        yield "an energy that is a mean over atoms"
    if energy.mean:
        yield (
            f"a mean energy of structures ({energy.mean:g} eV): tune with targets.energy.references=true and "
            "targets.energy.mean=0, or"
        )
    if model.config.repulsion not in {"none", "mean" if task.conservative else "sum"}:
        yield "forces of another kind than those for which its pair repulsion was made"


def _tensors(model: Orb) -> dict[str, Tensor]:
    """Return the tensors by the package's names; the readout's map is merged into the heads' first layers."""
    task = model.task()
    targets = {target.name: "energy" if target.kind == "energy" else "forces" for target in task.targets}
    ours = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    named = ((theirs_of(name, task.name, targets), value) for name, value in ours.items())
    found = {theirs: value.clone() for theirs, value in named if theirs is not None}
    _work_in(model, found)
    dtype = model.readout.weight.dtype
    return found | _scales(model, task, dtype) | _decoder(model, dtype)


def _work_in(model: Orb, found: dict[str, Tensor]) -> None:
    """Multiply heads' first layers by the readout's map, which is the identity if nothing was re-aligned."""
    matrix = model.readout.weight.detach().cpu().double()
    if bool((matrix == torch.eye(len(matrix)).to(matrix)).all()):
        return
    for name in [name for name in found if name.startswith("heads.") and name.endswith(".mlp.NN-0.weight")]:
        found[name] = (found[name].double() @ matrix).to(found[name])


def _scales(model: Orb, task: Task, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the normalisers and the energies of elements."""
    energy: Any = task.of_kind("energy")
    table = [energy.references.get(number, 0.0) for number in range(ELEMENTS)]
    found = {"heads.energy.reference.linear.weight": torch.tensor(table, dtype=dtype)}
    found |= _normaliser("heads.energy.normalizer", 0.0, energy.std**2, dtype)
    forces = task.of_kind("direct_forces")
    if forces is None:
        for name in ("grad_forces_normalizer", "grad_stress_normalizer"):
            found |= _normaliser(name, 0.0, 1.0, dtype)
        return found
    mean = float(model.heads.get_submodule(f"{task.name}.{forces.name}").get_buffer("mean"))
    found |= _normaliser("heads.forces.normalizer", mean, forces.std**2, dtype)
    return found | _scales_of_stress(model, task, dtype)


def _scales_of_stress(model: Orb, task: Task, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the normalisers of stress: v2 has one, v3 one of the diagonal and one of the rest."""
    if task.name not in model.stresses:
        return {}
    head = model.stresses[task.name]
    mean, variance = head.get_buffer("mean").tolist(), head.get_buffer("variance").tolist()
    rows = {"normalizer": 0} if model.config.lmax is None else {"diag_normalizer": 0, "offdiag_normalizer": 3}
    found: dict[str, Tensor] = {}
    for name, row in rows.items():
        found |= _normaliser(f"heads.stress.{name}", mean[row], variance[row], dtype)
    return found


def _normaliser(name: str, mean: float, variance: float, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        f"{name}.bn.running_mean": torch.tensor([mean], dtype=dtype),
        f"{name}.bn.running_var": torch.tensor([variance], dtype=dtype),
        f"{name}.bn.num_batches_tracked": torch.tensor([0] if name == "heads.energy.normalizer" else 0),
    }


def _decoder(model: Orb, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return zeros for a network that the package requires but whose result it ignores."""
    with building():
        made = network(model.config, 0)._decoder  # noqa: SLF001 - the package has no other name for it
    return {f"model._decoder.{name}": torch.zeros_like(value).to(dtype) for name, value in made.state_dict().items()}
