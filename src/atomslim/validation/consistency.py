"""Checks that need no reference: properties of every energy surface."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols, covalent_radii
from scipy.spatial.transform import Rotation

from atomslim.validation.measurement import (
    DoesNotFitError,
    FloatArray,
    IntArray,
    Measurement,
    NotDoneError,
    Settings,
    energy_of,
    height,
    memory_of,
    rattled,
    repeated,
    stress_of,
    with_calculator,
)

FAR = 60.0
"""Å: distance at which two copies of a molecule must not interact."""

SHORTEST = 4.0
"""Å: cells with shorter sides are repeated, so that atoms can move against each other."""

SOME_FORCE = 0.5
"""eV/Å: least norm of all forces to which errors are compared."""

UNEVEN = np.array([[0.5, -0.5, 0.3], [-0.5, 1.5, 0.2], [0.3, 0.2, 1.0]])
"""Compression of a cell."""

MINIMUM = 0.05
"""eV: shallower dips of a diatomic curve do not count as minima."""


def forces(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Compare forces with central differences of the energy, along the forces themselves and at random.

    error = max |−dE/dx − F·d| / |F| over unit vectors d of all atoms' coordinates: the forces, those of each element
    (relative to their own norm, or a quarter of the total), their sum, and random ones. |F| is `SOME_FORCE` at least.
    """
    moved = with_calculator(rattled(repeated(atoms, SHORTEST), settings["rattle"]), calculator)
    found = np.asarray(moved.get_forces(), dtype=np.float64)
    size = float(np.linalg.norm(found))
    if size == 0:
        raise DoesNotFitError("there are no forces on the atoms")
    if not np.isfinite(size):
        return Measurement({"error": np.nan})
    errors = [
        abs(-_slope(moved, d, settings["step"]) - (found * d).sum()) / max(scale, SOME_FORCE)
        for d, scale in _directions(found, moved.numbers, settings["directions"])
    ]
    return Measurement({"error": float(max(errors))})


def _directions(forces: FloatArray, numbers: IntArray, count: int) -> list[tuple[FloatArray, float]]:
    """Return unit vectors and the norms to which errors along them are compared."""
    size = float(np.linalg.norm(forces))
    random = np.random.default_rng(1).normal(size=(count, *forces.shape))
    total = np.broadcast_to(forces.sum(axis=0), forces.shape)
    found = [(one / np.linalg.norm(one), size) for one in (forces, total, *random) if one.any()]
    elements = [np.where(numbers[:, None] == element, forces, 0.0) for element in np.unique(numbers)]
    own = [(one, float(np.linalg.norm(one))) for one in elements if one.any() and len(elements) > 1]
    return found + [(one / norm, max(norm, size / 4)) for one, norm in own]


def stress(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Compare stress with central differences of the energy by strain: σ = (1/V) dE/dε.

    error = max |σ − σ_found| / max |σ| over the six components, of a cell compressed by some per cent, unevenly, so
    that no two of them are equal.
    """
    squeezed = rattled(repeated(atoms, SHORTEST), settings["rattle"])
    squeezed.set_cell(squeezed.cell @ (np.eye(3) - settings["squeeze"] * UNEVEN), scale_atoms=True)
    moved = with_calculator(squeezed, calculator)
    found = stress_of(moved)
    step, slopes = settings["step"], []
    for component in range(6):
        energies = [energy_of(strained(moved, component, sign * step)) for sign in (1, -1)]
        twice = 2 if component < 3 else 4  # a shear strain appears twice in the tensor
        slopes.append((energies[0] - energies[1]) / (twice * step) / moved.get_volume())
    return Measurement({"error": float(np.abs(np.array(slopes) - found).max() / np.abs(slopes).max())})


def strained(atoms: Atoms, component: int, strain: float) -> Atoms:
    """Return a copy, with the same calculator, under one component ε of the strain tensor (Voigt's order).

    A shear strain appears in both off-diagonal components of the tensor.
    """
    row, column = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)][component]
    deformation = np.eye(3)
    deformation[row, column] += strain
    if row != column:
        deformation[column, row] += strain
    copy = with_calculator(atoms, atoms.calc)
    copy.set_cell(atoms.cell @ deformation, scale_atoms=True)
    return copy


def symmetry(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Rotate, shift, renumber and wrap the structure, and recompute: energies are invariant, forces transform."""
    start = with_calculator(rattled(repeated(atoms, SHORTEST), settings["rattle"]), calculator)
    energy, found = energy_of(start), np.asarray(start.get_forces())
    random = np.random.default_rng(2)
    turn = Rotation.from_euler("zyx", random.uniform(0.3, 2.5, 3)).as_matrix()
    order = random.permutation(len(start))
    turned = with_calculator(start, calculator)
    turned.set_cell(start.cell @ turn)
    turned.positions = start.positions @ turn
    shifted = with_calculator(start, calculator)
    shifted.positions += random.uniform(-3, 3, 3)
    renumbered = with_calculator(start[order], calculator)
    images = {
        "rotation": (turned, found @ turn),
        "translation": (shifted, found),
        "numbering": (renumbered, found[order]),
    }
    if start.pbc.any():
        wrapped = with_calculator(shifted, calculator)
        wrapped.wrap()
        images["wrapping"] = (wrapped, found)
    images["again"] = (with_calculator(start, calculator), found)
    numbers = {}
    for name, (image, expected) in images.items():
        numbers[f"{name}, energy"] = 1e3 * abs(energy_of(image) - energy) / len(start)
        numbers[f"{name}, forces"] = float(np.abs(image.get_forces() - expected).max())
    numbers["translation, net force"] = float(np.linalg.norm(found.sum(axis=0))) / len(start)
    return Measurement(numbers)


def extensivity(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Double the structure, by a larger cell or by a second copy far away: the energy doubles, forces are unchanged."""
    start = with_calculator(rattled(repeated(atoms, SHORTEST), settings["rattle"]), calculator)
    energy, found = energy_of(start), np.asarray(start.get_forces())
    if start.pbc.any():
        axis = int(np.flatnonzero(start.pbc)[np.argmin(start.cell.lengths()[start.pbc])])
        double = start.repeat([2 if number == axis else 1 for number in range(3)])
    else:
        other = start.copy()
        other.positions += [FAR + np.ptp(start.positions), 0, 0]
        double = start + other
    double = with_calculator(double, calculator)
    return Measurement(
        {
            "energy": 1e3 * abs(energy_of(double) / 2 - energy) / len(start),
            "forces": float(np.abs(double.get_forces()[: len(start)] - found).max()),
        }
    )


def locality(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Disturb one spot and measure how far away forces change: nothing should change beyond a distance.

    A periodic structure is repeated along its shortest side, and one atom in it moved; a molecule has a second copy
    beside it, at decreasing distance. Gives the largest change of forces (eV/Å) beyond that distance, and by distance.
    """
    start = rattled(repeated(atoms, SHORTEST), settings["rattle"])
    changes = _moved_atom if start.pbc.any() else _second_copy
    distances, found = changes(calculator, start, settings)
    far = distances >= settings["beyond"]
    if not far.any():
        raise NotDoneError(f"no atom is {settings['beyond']:g} Å away")
    felt = distances[found > settings["felt"]]
    order = np.argsort(distances)
    return Measurement(
        {"forces": float(found[far].max()), "reach": float(felt.max(initial=0.0))},
        {"change": (distances[order].tolist(), found[order].tolist())},
        ("distance from the disturbance (Å)", "change of forces (eV/Å)"),
    )


def smoothness(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Scale and distort the structure in small equal steps, and look for jumps of energy and forces.

    All distances change, so that atoms cross cutoffs, and they change unequally, so that neighbours change ranks. Two
    copies of a molecule, which may be smaller than a cutoff, are pulled apart, too. A jump J between two
    points shows as 3J in fourth differences, to which a smooth curve contributes almost nothing.
    """
    whole = repeated(atoms, SHORTEST)
    start, end = (rattled(whole, settings["rattle"], seed) for seed in (0, 1))
    low, high = settings["scales"]
    scales = np.linspace(low, high, settings["points"])
    curve, forces_of = _along(calculator, _swollen(start, end, scales))
    lines = [(curve, forces_of)]
    if not start.pbc.any():
        near, far = settings["gaps"]
        lines.append(_along(calculator, _drawn_apart(start, np.linspace(near, far, settings["gap_points"]))))
    return Measurement(
        {
            "energy": 1e3 * _worst([_largest_step(energies[:, None]) for energies, _ in lines]),
            "forces": _worst([_largest_step(found) for _, found in lines]),
        },
        {"energy": (scales.tolist(), ((curve - curve.min()) / len(start)).tolist())},
        ("scale of all lengths", "energy (eV/atom)"),
    )


def dimers(calculator: Calculator, atoms: Atoms, settings: Settings) -> Measurement:
    """Pull two atoms apart, for all pairs of the structure's elements: one minimum, and a wall without holes.

    wall: the distance, relative to the sum of covalent radii, below which the curve falls towards short distances.
    """
    numbers, curves = {"minima": 0.0, "wall": 0.0}, {}
    elements = sorted(set(atoms.numbers.tolist()))
    for first, second in ((a, b) for index, a in enumerate(elements) for b in elements[index:]):
        distances, energies = _curve(calculator, first, second, settings)
        name = f"{chemical_symbols[first]}–{chemical_symbols[second]}"
        zero = energies[np.isfinite(energies)][-1:].sum()  # the farthest
        curves[name] = (distances.tolist(), np.clip(energies - zero, -20, 20).tolist())
        numbers["minima"] = max(numbers["minima"], float(_minima(energies)))
        radius = covalent_radii[first] + covalent_radii[second]
        numbers["wall"] = max(numbers["wall"], _wall(distances / radius, energies))
    return Measurement(numbers, curves, ("distance (Å)", "energy (eV)"))


def _swollen(start: Atoms, end: Atoms, scales: FloatArray) -> Iterator[Atoms]:
    """Scale all lengths while the atoms go from start to end."""
    for share, scale in zip(np.linspace(0, 1, len(scales)), scales, strict=True):
        image = start.copy()
        image.positions = scale * ((1 - share) * start.positions + share * end.positions)
        image.set_cell(start.cell * scale)
        yield image


def _drawn_apart(start: Atoms, gaps: FloatArray) -> Iterator[Atoms]:
    """Move a second copy away along x."""
    for gap in gaps:
        other = start.copy()
        other.positions[:, 0] += np.ptp(start.positions[:, 0]) + gap
        yield start + other


def _along(calculator: Calculator, images: Iterable[Atoms]) -> tuple[FloatArray, FloatArray]:
    """Return energies (points,) and forces (points, components) of images."""
    found = [with_calculator(image, calculator) for image in images]
    energies = [(energy_of(image), np.asarray(image.get_forces()).ravel()) for image in found]
    return np.array([energy for energy, _ in energies]), np.array([forces for _, forces in energies])


def _worst(values: Sequence[float]) -> float:
    """Return the largest, or NaN if one is NaN."""
    return float(np.max(values))


def _moved_atom(calculator: Calculator, start: Atoms, settings: Settings) -> tuple[FloatArray, FloatArray]:
    """Return distances of all atoms from one that was moved, and the change of the forces on them."""
    axis = int(np.flatnonzero(start.pbc)[np.argmin(start.cell.lengths()[start.pbc])])
    count = int(np.ceil(2 * (settings["beyond"] + 1) / height(start, axis)))
    row = with_calculator(start.repeat([count if number == axis else 1 for number in range(3)]), calculator)
    moved = with_calculator(row, calculator)
    moved.positions[0] += settings["move"] / np.sqrt(3)
    found = np.linalg.norm(moved.get_forces() - row.get_forces(), axis=1)
    return np.asarray(row.get_distances(0, range(len(row)), mic=True)), found


def _second_copy(calculator: Calculator, start: Atoms, settings: Settings) -> tuple[FloatArray, FloatArray]:
    """Return distances between two copies of a molecule, and the largest change of the forces in the first."""
    alone = np.asarray(with_calculator(start, calculator).get_forces())
    changes = []
    for distance in settings["distances"]:
        other = start.copy()
        other.positions[:, 0] += np.ptp(start.positions[:, 0]) + distance
        both = with_calculator(start + other, calculator)
        changes.append(np.linalg.norm(both.get_forces()[: len(start)] - alone, axis=1).max())
    return np.array(settings["distances"], dtype=np.float64), np.array(changes)


def _slope(atoms: Atoms, direction: FloatArray, step: float) -> float:
    energies = []
    for sign in (1, -1):
        image = with_calculator(atoms, atoms.calc)
        image.positions += sign * step * direction
        energies.append(energy_of(image))
    return (energies[0] - energies[1]) / (2 * step)


def _largest_step(curve: FloatArray) -> float:
    """Return the largest jump of (points, components) curves."""
    return float(np.abs(np.diff(curve, n=4, axis=0)).max()) / 3


def _curve(calculator: Calculator, first: int, second: int, settings: Settings) -> tuple[FloatArray, FloatArray]:
    """Return distances and energies of a pair, computed once for all structures that have it."""
    radius, points = covalent_radii[first] + covalent_radii[second], settings["points"]
    distances = radius * np.linspace(settings["shortest"], 1.0, points)
    distances = np.concatenate([distances, np.linspace(radius, max(6.0, 2 * radius), points)[1:]])
    known, key = memory_of(calculator), ("pair", first, second, points)
    if key not in known:
        known[key] = _pair_energies(calculator, first, second, distances)
    return distances, known[key]


def _pair_energies(calculator: Calculator, first: int, second: int, distances: FloatArray) -> FloatArray:
    """Return energies of a pair, NaN where the calculator fails; raises its error if it always fails."""
    energies, failure = np.full(len(distances), np.nan), None
    for index, distance in enumerate(distances):
        pair = with_calculator(Atoms([first, second], [[0, 0, 0], [0, 0, distance]]), calculator)
        try:
            energies[index] = energy_of(pair)
        except Exception as error:  # noqa: BLE001 - other calculators raise anything
            failure = error
    if failure is not None and np.isnan(energies).all():
        raise failure
    return energies


def _minima(energies: FloatArray) -> int:
    """Count minima that are at least `MINIMUM` deep on both sides; the ends do not count."""
    energies = energies[np.isfinite(energies)]
    if not len(energies):
        return 0
    found, lowest, highest, falling = 0, np.inf, energies[0], True
    for energy in energies[1:]:
        if falling:
            lowest = min(lowest, energy)
            if energy > lowest + MINIMUM:
                found, falling, highest = found + (lowest < highest - MINIMUM), False, energy
        else:
            highest = max(highest, energy)
            if energy < highest - MINIMUM:
                falling, lowest = True, energy
    return found


def _wall(share: FloatArray, energies: FloatArray) -> float:
    """Return the largest fraction of the covalent distance, below 0.7, at which the energy falls on approach.

    NaN energies within the covalent distance end the wall there. Farther out they are allowed: a
    model can refuse an atom without neighbours.
    """
    inside = share <= 0.7
    falls = np.flatnonzero(np.diff(energies[inside]) > 0)  # rising with distance: attractive inside the wall
    ends = [*share[inside][falls + 1], *share[~np.isfinite(energies) & (share <= 1)]]
    return float(max(ends, default=0.0))
