"""The enumerating reference against the original implementation's numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reference import (
    GOLDEN,
    Bases,
    Quadruplets,
    a2e_triplets,
    compute_bases,
    cosine,
    dihedral,
    dihedral_cosine,
    e2a_triplets,
    e2e_triplets,
    forward,
    golden_inputs,
    golden_state,
    keys_from_config,
    quadruplets,
)
from reference.bases import State, edge_vectors

# Of max|.|: the golden data's own promise. 4e-13 is measured, and 1e-14 where no planar chain is nearly straight.
FLOAT64 = 1e-9
FLOAT32 = {"E": 3e-5, "other": 1.5e-4}  # of max|.|: rounding of the original and of ours; 4e-5 is measured
FLOAT32_OWN = 3  # or this many times what the original itself differs between float32 and float64

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One structure of one golden model."""

    model: str
    structure: str

    @property
    def arrays(self) -> Arrays:
        arrays = _load(self.path)
        if "main_sym_edge_index" not in arrays:
            pytest.skip(f"{self.path.name} lists no symmetrised edges, and the reference finds none itself")
        return arrays

    @property
    def path(self) -> Path:
        return GOLDEN / f"{self.model}_{self.structure}.npz"


@lru_cache
def _load(path: Path) -> Arrays:
    with np.load(path) as file:
        return dict(file)


def find_cases() -> list[Case]:
    models = sorted((p.name.removesuffix("_config.json") for p in GOLDEN.glob("*_config.json")), key=len, reverse=True)
    cases: dict[Path, Case] = {}
    for model in models:  # longest name first: "small_wide_ethanol" belongs to "small_wide", not to "small"
        for path in sorted(GOLDEN.glob(f"{model}_*.npz")):
            cases.setdefault(path, Case(model, path.stem.removeprefix(f"{model}_")))
    return list(cases.values())


CASES = find_cases()
needs_golden = pytest.mark.skipif(
    not CASES, reason=f"no golden structures under {GOLDEN}: set ATOMSLIM_GOLDEN to their folder"
)
every_case = pytest.mark.parametrize(
    "case",
    CASES or [pytest.param(None, marks=needs_golden)],
    ids=[f"{case.model}-{case.structure}" for case in CASES] or ["none"],
)
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@lru_cache
def state_of(model: str, dtype: str) -> State:
    check = GOLDEN / f"{model}_weights_check.json"
    return golden_state(check if check.exists() else GOLDEN / f"{model}_config.json", DTYPES[dtype])


@lru_cache
def outputs(case: Case, dtype: str) -> Arrays:
    with torch.no_grad():
        result = forward(state_of(case.model, dtype), golden_inputs(case.arrays, DTYPES[dtype]))
    return {name: value.numpy() for name, value in result.items()}


def difference(value: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference over max|expected|."""
    assert value.shape == expected.shape
    return float(np.abs(value - expected).max() / np.abs(expected).max())


def observed(result: Arrays, name: str, rows: np.ndarray | None) -> np.ndarray | None:
    """Find what a golden array `name` is about: a result, rows of it, or norms of its rows; else None."""
    value = result.get(name.removesuffix("_rows").removesuffix("_norm").removesuffix("_rms"))
    if value is None or name.endswith("_rms"):
        return None if value is None else np.sqrt(np.square(value).mean())
    if "_norm" in name:
        value = np.linalg.norm(value, axis=1)
    edges = name.endswith("_rows") or name.startswith(("m", "xF", "out_mlp_F"))
    return value[rows] if edges and rows is not None else value


def differences(result: Arrays, expected: Arrays, prefix: str, rows: np.ndarray | None) -> dict[str, float]:
    """Compare every result that has its array named `prefix` + name in the file."""
    found = {}
    for key, array in expected.items():
        if key.startswith(prefix) and (value := observed(result, key.removeprefix(prefix), rows)) is not None:
            found[key.removeprefix(prefix)] = difference(value, array)
    return found


def aligned(columns: tuple[Tensor | np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of index columns in sorted order, and that order."""
    table = np.stack([np.asarray(column) for column in columns], 1)
    order = np.lexsort(table.T[::-1])
    return table[order], order


# -- weights


@needs_golden
@pytest.mark.parametrize("model", sorted({case.model for case in CASES}))
def test_weights_have_the_sums_of_the_original(model: str) -> None:
    path = GOLDEN / f"{model}_weights_check.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    state = state_of(model, "float64")
    for key, (_, total, size) in json.loads(path.read_text()).items():
        if key in state:
            assert abs(state[key].sum().item() - total) <= 1e-9 * max(size, 1.0), key


@needs_golden
@pytest.mark.parametrize("model", sorted({case.model for case in CASES}))
def test_keys_follow_from_the_config(model: str) -> None:
    path = GOLDEN / f"{model}_weights_check.json"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    config = json.loads((GOLDEN / f"{model}_config.json").read_text())
    made = dict(keys_from_config(config))
    assert made == {key: tuple(value.shape) for key, value in state_of(model, "float64").items()}


# -- the model


@every_case
def test_float64_outputs_agree_with_the_original(case: Case) -> None:
    found = differences(outputs(case, "float64"), case.arrays, "f64_", case.arrays.get("edge_rows"))
    assert {"E", "F"} <= set(found)
    assert max(found.values()) < FLOAT64, found


@every_case
def test_float32_outputs_agree_with_the_original(case: Case) -> None:
    arrays = case.arrays
    both = [name for name in arrays if f"f64_{name}" in arrays]
    own = max((difference(arrays[name], arrays[f"f64_{name}"]) for name in both), default=0.0)
    plain = {name: array for name, array in arrays.items() if not name.startswith("f64_")}
    found = differences(outputs(case, "float32"), plain, "", arrays.get("edge_rows"))
    for name, value in found.items():
        assert value < max(FLOAT32.get(name, FLOAT32["other"]), FLOAT32_OWN * own), (name, found)


def check_large(structure: str) -> None:
    """Compare JMP-L at its own widths in float64, a structure of the small model's files."""
    path, inputs = GOLDEN / "large_outputs.npz", GOLDEN / f"small_{structure}.npz"
    if not (path.exists() and inputs.exists()):
        pytest.skip(f"{path} is not there")
    expected = {k.removeprefix(f"{structure}_"): v for k, v in _load(path).items() if k.startswith(f"{structure}_")}
    with torch.no_grad():
        state = golden_state(GOLDEN / "large_weights_check.json")
        result = {k: v.numpy() for k, v in forward(state, golden_inputs(_load(inputs))).items()}
    found = differences(result, expected, "f64_", None)
    assert set(found) == {"E", "F", "out_mlp_E"}
    assert max(found.values()) < FLOAT64, found
    found = differences(result, expected, "", expected["edge_rows"])
    assert max(found.values()) < FLOAT32["E"], found


@pytest.mark.slow
def test_large_model_agrees_with_the_original() -> None:
    check_large("ethanol")


# -- index sets, bases and paths


@every_case
def test_numbers_of_triplets_and_quadruplets(case: Case) -> None:
    if "counts" not in case.arrays:
        pytest.skip("the file has no counts")
    graphs = golden_inputs(case.arrays).graphs
    main, ae = graphs["main"], graphs["a2ee2a"]
    quads = quadruplets(main, graphs["qint"])
    lists = (e2e_triplets(main), a2e_triplets(ae, main), e2a_triplets(main, ae), quads.first, quads.last, quads)
    assert [len(entries) for entries in lists] == case.arrays["counts"].tolist()


DETAILED = [case for case in CASES if "trip_e2e_in" in _load(case.path)]
every_detailed = pytest.mark.parametrize(
    "case",
    DETAILED or [pytest.param(None, marks=pytest.mark.skip(reason="no golden file with index arrays"))],
    ids=[f"{case.model}-{case.structure}" for case in DETAILED] or ["none"],
)


@every_detailed
def test_triplets_are_the_original_ones(case: Case) -> None:
    graphs, arrays = golden_inputs(case.arrays).graphs, case.arrays
    main, ae = graphs["main"], graphs["a2ee2a"]
    found = {"e2e": e2e_triplets(main), "a2e": a2e_triplets(ae, main), "e2a": e2a_triplets(main, ae)}
    for name, triplets in found.items():
        ours, _ = aligned((triplets.incoming, triplets.outgoing))
        theirs, _ = aligned((arrays[f"trip_{name}_in"], arrays[f"trip_{name}_out"]))
        assert np.array_equal(ours, theirs), name


def original_quadruplets(arrays: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first, last = arrays["quad_trip_in_to_quad"], arrays["quad_trip_out_to_quad"]
    return arrays["quad_tripin_in"][first], arrays["quad_tripin_out"][first], arrays["quad_tripout_out"][last]


def columns_of(quads: Quadruplets) -> tuple[Tensor, Tensor, Tensor]:
    return quads.incoming, quads.middle, quads.outgoing


@every_detailed
def test_quadruplets_are_the_original_ones(case: Case) -> None:
    graphs, arrays = golden_inputs(case.arrays).graphs, case.arrays
    quads = quadruplets(graphs["main"], graphs["qint"])
    assert torch.equal(quads.middle, quads.last.incoming[quads.last_index])
    assert np.array_equal(aligned(columns_of(quads))[0], aligned(original_quadruplets(arrays))[0])
    pairs = (("in", quads.first), ("out", quads.last))
    for name, triplets in pairs:
        theirs, _ = aligned((arrays[f"quad_trip{name}_in"], arrays[f"quad_trip{name}_out"]))
        assert np.array_equal(aligned((triplets.incoming, triplets.outgoing))[0], theirs), name


def bases_by_golden_names(case: Case) -> tuple[Bases, dict[str, Tensor]]:
    bases = compute_bases(state_of(case.model, "float32"), golden_inputs(case.arrays, torch.float32))
    quad = bases.quadruplet
    return bases, {
        "basis_rbf_main_raw": bases.rbf,
        "basis_atom_update": bases.atom_update,
        "basis_output": bases.output,
        "basis_e2e_rad": bases.edge_to_edge.radial,
        "basis_a2e_rad": bases.atom_to_edge.radial,
        "basis_e2a_rad": bases.edge_to_atom.radial,
        "basis_qint_rad": quad.radial,
        "basis_qint_sph_rad": quad.weight,
        "basis_e2e_cir_rad": bases.edge_to_edge.weight,
        "main_sym_vector": bases.vector,
    }


@every_detailed
def test_bases_per_edge_are_the_original_ones(case: Case) -> None:
    found = {k: difference(v.numpy(), case.arrays[k]) for k, v in bases_by_golden_names(case)[1].items()}
    assert max(found.values()) < 1e-5, found


@every_detailed
def test_bases_per_triplet_and_quadruplet_are_the_original_ones(case: Case) -> None:
    arrays, (bases, _) = case.arrays, bases_by_golden_names(case)
    e2e, quads = bases.edge_to_edge.triplets, bases.quadruplet.quadruplets
    first = (quads.first.incoming, quads.first.outgoing)
    originals = {
        "raw_cbf_e2e": (bases.edge_to_edge.angular, (e2e.incoming, e2e.outgoing), ("trip_e2e_in", "trip_e2e_out")),
        "basis_qint_cir": (bases.quadruplet.circular, first, ("quad_tripin_in", "quad_tripin_out")),
    }
    for name, (value, ours, theirs) in originals.items():
        mine, original = aligned(ours)[1], aligned(tuple(arrays[key] for key in theirs))[1]
        assert difference(value.numpy()[mine], arrays[name][original]) < 1e-5, name
    mine, original = aligned(columns_of(quads))[1], aligned(original_quadruplets(arrays))[1]
    assert difference(bases.quadruplet.spherical.numpy()[mine], arrays["raw_sbf_qint"][original]) < 1e-5


@every_detailed
def test_dihedrals_are_the_original_ones(case: Case) -> None:
    inputs = golden_inputs(case.arrays)
    main, q = (edge_vectors(inputs, inputs.graphs[name])[1] for name in ("main", "qint"))
    quads = quadruplets(inputs.graphs["main"], inputs.graphs["qint"])
    chain = main[quads.outgoing], main[quads.incoming], q[quads.middle]
    mine, original = aligned(columns_of(quads))[1], aligned(original_quadruplets(case.arrays))[1]
    assert difference(np.cos(dihedral(*chain).numpy()[mine]), np.cos(case.arrays["sbf_dihedral"][original])) < 1e-5
    assert difference(cosine(chain[0], chain[2]).numpy()[mine], case.arrays["sbf_cosphi"][original]) < 1e-6
    assert torch.allclose(dihedral_cosine(*chain), dihedral(*chain).cos(), rtol=0, atol=1e-10)
