"""The production model, loaded from checkpoint files as the original writes them, against the original's numbers."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atomslim import load
from atomslim.atoms import AtomsBatch
from atomslim.families.jmp import JMP, GemNetOCConfig, JMPConfig, JMPGraphSettings, jmp_l, jmp_s
from atomslim.families.jmp.checkpoint import PRETRAINING_TASKS, read_jmp
from atomslim.families.jmp.gemnet_oc.graphs import Topology, build_topology
from atomslim.models import Target, Task, energy_and_forces
from atomslim.models.model_file import export
from reference import GOLDEN, golden_state

FLOAT64 = 1e-9  # of max|.|: the golden data's own promise
FLOAT32 = {"E": 3e-5, "F": 1.5e-4}  # of max|.|; 1.5e-4 for features, too
FLOAT32_OWN = 3  # or this many times what the original itself differs between float32 and float64
TASKS = tuple(task.name for task in PRETRAINING_TASKS)

Arrays = dict[str, NDArray[Any]]
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


# -- cases


@dataclass(frozen=True)
class Case:
    """One structure of one golden model: the file of its inputs, and that of its outputs, whose names have a prefix."""

    model: str
    inputs: Path
    outputs: Path
    prefix: str = ""

    @property
    def arrays(self) -> Arrays:
        return load_arrays(self.inputs)

    def expected(self, name: str) -> NDArray[Any] | None:
        return load_arrays(self.outputs).get(self.prefix + name)


@cache
def load_arrays(path: Path) -> Arrays:
    with np.load(path) as file:
        return dict(file)


def find_cases() -> list[Case]:
    """Pair every configuration with its structures; of two that fit a file's name, the longer one owns it."""
    models = sorted((path.name.removesuffix("_config.json") for path in GOLDEN.glob("*_config.json")), key=len)
    owners = {path: model for model in models for path in sorted(GOLDEN.glob(f"{model}_*.npz"))}
    return [Case(model, path, path) for path, model in owners.items() if not path.stem.endswith("_outputs")]


def find_large_cases() -> list[Case]:
    """Find the outputs of large models, many structures in a file, whose inputs are those of the small model."""
    return [
        Case(path.name.removesuffix("_outputs.npz"), GOLDEN / f"small_{structure}.npz", path, f"{structure}_")
        for path in sorted(GOLDEN.glob("*_outputs.npz"))
        for structure in sorted({key.split("_f64_")[0] for key in load_arrays(path) if "_f64_" in key})
        if (GOLDEN / f"small_{structure}.npz").exists()
    ]


CASES, LARGE_CASES = find_cases(), find_large_cases()
ABSENT = pytest.mark.skip(reason=f"no golden data in {GOLDEN} (set ATOMSLIM_GOLDEN)")


def each(cases: list[Case]) -> pytest.MarkDecorator:
    names = [f"{case.model}-{case.prefix.strip('_') or case.inputs.stem}" for case in cases]
    nothing = pytest.param(None, marks=ABSENT)
    return pytest.mark.parametrize("case", cases or [nothing], ids=names or ["none"])


# -- models


def checkpoint(model: str) -> dict[str, torch.Tensor]:
    """Return the state dict of a golden model: its keys in the original's order, its weights by the recipe."""
    check, sizes = GOLDEN / f"{model}_weights_check.json", GOLDEN / f"{model}_config.json"
    if not check.exists() and not sizes.exists():
        pytest.skip(f"{GOLDEN} has neither {check.name} nor {sizes.name}")
    state = golden_state(check if check.exists() else sizes, torch.float32)
    for key in [key for key in state if key.endswith(".rbf.offset")]:
        width = len(state[key])
        state[key.replace(".offset", ".temps")] = torch.full((width,), 0.5 * (width - 1) ** 2)
    return state | {f"task_steps._module_dict._typed_moduledict_{task}.sum_value": torch.zeros(()) for task in TASKS}


class Models:
    """Loads a golden model from a file; keeps the last one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = ""

    def get(self, name: str, dtype: torch.dtype) -> JMP:
        if name != self.name:
            path = self.folder / f"{name}.pt"
            torch.save({"state_dict": checkpoint(name)}, path)
            loaded = load(path)
            path.unlink()
            assert isinstance(loaded, JMP)
            self.name, self.model = name, loaded
        copy = self.model.with_blocks(range(1, self.model.num_blocks + 1))
        return copy.to(dtype)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("golden"))


# -- results


def batch_of(arrays: Arrays) -> AtomsBatch:
    """Molecules are periodic, too, in cells that are larger than any cutoff, as they were for the original."""
    return AtomsBatch(
        positions=torch.from_numpy(arrays["pos"]).double(),
        numbers=torch.from_numpy(arrays["Z"]).long(),
        cell=torch.from_numpy(arrays["cell"]).double(),
        pbc=torch.ones(len(arrays["cell"]), 3, dtype=torch.bool),
        tags=torch.from_numpy(arrays["tags"]).long(),
        fixed=torch.from_numpy(arrays["fixed"]).bool(),
        batch=torch.from_numpy(arrays["batch"]).long(),
    )


def topology_of(arrays: Arrays, batch: AtomsBatch) -> Topology:
    settings = [
        JMPGraphSettings(cutoff=main[0], main=main[1], atom=atom[1], atom_edge=atom_edge[1], quad=quad[1])
        for main, atom, atom_edge, quad in arrays["graph_settings"].tolist()
    ]
    return build_topology(batch, settings)


@torch.no_grad()
def results(model: JMP, batch: AtomsBatch, topology: Topology) -> Arrays:
    """Return energies, forces and all features under the names of the golden arrays; edge features in our order."""
    states: list[tuple[torch.Tensor, torch.Tensor]] = []
    hooks = [out.register_forward_pre_hook(lambda _, args: states.append(args[:2])) for out in model.backbone.outputs]
    features = model.features(batch, topology)
    for hook in hooks:
        hook.remove()
    readout = model.read(features)
    found = {"out_mlp_E": readout.node, "out_mlp_F": readout.edge}
    for block, (h, m) in enumerate(states):
        found |= {
            f"h{block}": h,
            f"m{block}": m,
            f"xE{block}": features.node[block],
            f"xF{block}": features.edge[block],
        }
    predictions = model(batch, topology, normalised=True)
    for name, target in {"E": "energy", "F": "forces"}.items():
        found[name] = torch.stack([predictions[task][target] for task in model.tasks], dim=-1)
    return {name: value.numpy() for name, value in found.items() if value is not None}


def edges_of(case: Case) -> NDArray[np.int64] | None:
    """Return source, target and offset of the golden edge features' rows."""
    index, offset = case.expected("edge_index_rows"), case.expected("edge_offset_rows")
    if index is None or offset is None:
        index, offset = (case.arrays.get(f"main_sym_{name}") for name in ("edge_index", "cell_offset"))
        rows = case.expected("edge_rows")
        if index is None or offset is None:
            return None
        if rows is not None:
            index, offset = index[:, rows], offset[rows]
    return np.column_stack([index.T, offset]).astype(np.int64)


def rows_of_edges(case: Case, topology: Topology) -> NDArray[np.int64] | None:
    """Find our edges in the order of the golden edge features, by source, target and offset."""
    edges = edges_of(case)
    ours = torch.column_stack([topology.main.source, topology.main.target, topology.main.offset]).tolist()
    indices = {tuple(edge): index for index, edge in enumerate(ours)}
    return None if edges is None else np.array([indices[tuple(edge)] for edge in edges.tolist()])


def observed(found: Arrays, name: str, rows: NDArray[np.int64] | None) -> NDArray[Any] | None:
    """Return what a golden array holds: a feature, the norms of its rows, or their root mean square; else None."""
    base, *kinds = name.replace("_rms", " rms").replace("_norm", " norm").replace("_rows", " rows").split()
    value = found.get(base)
    if value is None:
        return None
    if "rms" in kinds:
        return np.asarray(np.sqrt(np.square(value, dtype=np.float64).mean()))
    if base.startswith(("m", "xF", "out_mlp_F")):
        if rows is None:
            return None
        value = value[rows]
    return np.linalg.norm(value, axis=1) if "norm" in kinds else value


def comparisons(case: Case, found: Arrays, topology: Topology, *, exact: bool) -> Iterator[tuple[str, float]]:
    """Give every golden quantity that the case has, and how much ours differs from it, relative to max|.|."""
    rows = rows_of_edges(case, topology)
    keys = [key.removeprefix(case.prefix) for key in load_arrays(case.outputs) if key.startswith(case.prefix)]
    for name in dict.fromkeys(key.removeprefix("f64_") for key in keys):
        candidates = [case.expected(f"f64_{name}"), None if exact else case.expected(name)]
        expected = [array for array in candidates if array is not None]
        value = observed(found, name, rows)
        if value is not None and expected:
            yield name, difference(value, expected[-1])


def difference(value: NDArray[Any], expected: NDArray[Any]) -> float:
    assert value.shape == expected.shape
    return float(np.abs(value - expected).max() / np.abs(expected).max())


def tolerance32(case: Case, name: str) -> float:
    own, exact = case.expected(name), case.expected(f"f64_{name}")
    bound = FLOAT32.get(name, FLOAT32["F"])
    return bound if own is None or exact is None else max(bound, FLOAT32_OWN * difference(own, exact))


def check(case: Case, models: Models, dtype: torch.dtype) -> None:
    batch = batch_of(case.arrays)
    topology = topology_of(case.arrays, batch)
    found = results(models.get(case.model, dtype), batch, topology)
    exact = dtype == torch.float64
    compared = dict(comparisons(case, found, topology, exact=exact))
    assert {"E", "F"} <= compared.keys()
    bounds = {name: FLOAT64 if exact else tolerance32(case, name) for name in compared}
    too_far = {name: (value, bounds[name]) for name, value in compared.items() if not value <= bounds[name]}
    assert not too_far


@DTYPES
@each(CASES)
def test_the_original_is_reproduced(case: Case, dtype: torch.dtype, models: Models) -> None:
    check(case, models, dtype)


@pytest.mark.slow
@DTYPES
@each(LARGE_CASES)
def test_the_original_at_full_size_is_reproduced(case: Case, dtype: torch.dtype, models: Models) -> None:
    check(case, models, dtype)


@each(CASES[:1])
def test_averages_come_in_the_originals_order(case: Case) -> None:
    if not (GOLDEN / f"{case.model}_weights_check.json").exists():
        pytest.skip("the order of the original's keys is not known")
    state = checkpoint(case.model)
    not_averaged = (".offset", ".temps", ".scale_factor", ".sum_value")
    names = [key for key in state if not key.endswith(not_averaged) and ".seq_energy_pre." not in key]
    raw = {key: tensor if key.endswith(not_averaged) else tensor / 2 for key, tensor in state.items()}
    content = {"state_dict": raw, "optimizer_states": [{"ema": tuple(state[key] for key in names)}]}
    expected = read_jmp(state).state_dict()
    for name, tensor in read_jmp(content).state_dict().items():
        assert torch.equal(tensor, expected[name])
    for name, tensor in read_jmp(content, weights="raw").state_dict().items():
        kept = name.endswith((".offset", ".factor"))
        assert torch.equal(tensor, expected[name] if kept else expected[name] / 2)


@pytest.mark.parametrize("model", sorted({case.model for case in CASES}) or [pytest.param("", marks=ABSENT)])
def test_sizes_are_those_of_the_configuration(model: str, models: Models) -> None:
    expected = json.loads((GOLDEN / f"{model}_config.json").read_text())
    found = models.get(model, torch.float32).config.model_dump()
    different = {"dropout", "edge_dropout"}  # of training: no tensor tells
    assert {key: found[key] for key in found.keys() & expected.keys() - different} == {
        key: expected[key] for key in found.keys() & expected.keys() - different
    }


def test_the_small_model_has_as_many_parameters_as_the_original(models: Models) -> None:
    model = models.get("small", torch.float32)
    assert sum(parameter.numel() for parameter in model.parameters()) == 701_608


# -- keys and counts at full size


def keys(name: str) -> list[Any]:
    path = GOLDEN / "keys" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    content: list[Any] = json.loads(path.read_text())
    return content


def empty(config: GemNetOCConfig, *tasks: Task) -> JMP:
    with torch.device("meta"):
        return JMP(config, tasks)


def filled(config: GemNetOCConfig, *tasks: Task) -> JMP:
    """Return a model of full size whose weights are all zero."""
    return empty(config, *tasks).to_empty(device="cpu").apply(zero_).eval()


def zero_(module: torch.nn.Module) -> None:
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        tensor.detach().zero_()


SCALAR = Task(graph=JMPGraphSettings(), name="finetuned", targets=(Target(name="y", kind="scalar"),))
ENERGY = Target(name="energy", kind="energy")
CONSERVATIVE = Task(
    graph=JMPGraphSettings(), name="finetuned", targets=(ENERGY, Target(name="forces", kind="conservative_forces"))
)
DIRECT = Task(graph=JMPGraphSettings(), name="finetuned", targets=(ENERGY, Target(name="forces", kind="direct_forces")))


def bare(sizes: GemNetOCConfig) -> JMPConfig:
    return JMPConfig(**sizes.model_dump(), heads_without_bias=("finetuned.energy",))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "tasks"),
    [
        ("jmp_s", jmp_s(), PRETRAINING_TASKS),
        ("jmp_l", jmp_l(), PRETRAINING_TASKS),
        ("jmp_l_finetune_qmof", jmp_l(direct_forces=False), (SCALAR,)),
        (
            "jmp_l_finetune_spice",
            bare(jmp_l(direct_forces=False)),
            (CONSERVATIVE,),
        ),
        ("jmp_l_finetune_rmd17", bare(jmp_l()), (DIRECT,)),
    ],
)
def test_exported_keys_shapes_and_order_are_the_originals(
    name: str, config: GemNetOCConfig, tasks: tuple[Task, ...], tmp_path: Path
) -> None:
    expected = keys(f"{name}_state_dict")
    export(filled(config, *tasks), tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True, mmap=True)
    state = content["state_dict"]
    assert [[key, list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in state.items()] == expected
    averages = content["optimizer_states"][0]["ema"]
    if "finetune" not in name:
        order = keys(f"{name}_ema_order")
        assert [tensor.data_ptr() for tensor in averages] == [state[key].data_ptr() for key in order]
    again = load(tmp_path / "model.pt")
    (tmp_path / "model.pt").unlink()  # a GB that pytest would keep
    assert isinstance(again, JMP)
    assert again.family is not None
    found = again.family.configuration(again)
    assert found.model_dump() == {"heads_without_bias": ()} | config.model_dump()


@pytest.mark.parametrize(("config", "count"), [(jmp_l(), 234_267_648), (jmp_s(), 44_131_328)])
def test_pretrained_models_have_as_many_parameters_as_the_originals(config: GemNetOCConfig, count: int) -> None:
    model = empty(config, *(energy_and_forces(name, forces="direct", graph=JMPGraphSettings()) for name in TASKS))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(
    ("blocks", "count"),
    [(6, 160_875_776), (5, 134_537_472), (4, 108_199_168), (3, 81_860_864), (2, 55_522_560)],
)
def test_cut_models_have_as_many_parameters_as_published(blocks: int, count: int) -> None:
    model = empty(jmp_l(num_blocks=blocks, direct_forces=False), SCALAR)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
