"""A figure of the contents of a pool."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atomslim.data.bins import edges
from atomslim.data.container import Container
from atomslim.labelling.pool_parts import Made, in_order
from atomslim.labelling.select import nearest_distance
from atomslim.words import number_of


def figure(container: Container, kinds: Mapping[str, Mapping[str, int]], made: Made) -> Figure:
    """Draw kinds, shortest distances, volumes, differences of structures, and energies and forces of dynamics."""
    drawing = Figure(figsize=(12, 7), layout="constrained")
    axes = drawing.subplots(2, 3).ravel()
    _kinds(axes[0], kinds)
    _histogram(axes[1], [nearest_distance(sample) for sample in container], "nearest atoms (sum of covalent radii)")
    volumes = [abs(np.linalg.det(sample.cell)) / len(sample) for sample in container if sample.has_volume]
    _histogram(axes[2], volumes, "volume per atom (Å³)")
    axes[3].plot(np.arange(1, len(container) + 1)[1:], container.metadata["distances"][1:])
    axes[3].set_yscale("log")
    axes[3].set_xlabel("structures kept")
    axes[3].set_ylabel("distance to the next one in feature space")
    _by_kind(axes[4], made.energies, "energy relative to the first frame (eV/atom)")
    _by_kind(axes[5], made.forces, "rms force (eV/Å)")
    drawing.suptitle(number_of(len(container), "structure"))
    return drawing


def _kinds(axis: Axes, kinds: Mapping[str, Mapping[str, int]]) -> None:
    names = list(kinds)
    axis.barh(names, [kinds[name]["made"] for name in names], color="0.85", label="made")
    axis.barh(names, [kinds[name]["kept"] for name in names], label="kept")
    axis.invert_yaxis()
    axis.set_xlabel("structures")
    axis.legend()


def _histogram(axis: Axes, values: list[float], label: str) -> None:
    finite = np.array(values)[np.isfinite(values)] if values else np.array([])
    axis.hist(finite, bins=edges(finite, 40))
    axis.set_xlabel(label)
    axis.set_ylabel("structures")
    if not len(finite):
        axis.set_visible(False)


def _by_kind(axis: Axes, values: Mapping[str, list[float]], label: str) -> None:
    for kind in sorted(values, key=in_order):
        bins = edges(values[kind], 1 + math.ceil(math.log2(len(values[kind]) + 1)))
        axis.hist(values[kind], bins=bins, histtype="step", label=kind)
    axis.set_xlabel(label)
    axis.set_ylabel("frames of dynamics")
    axis.set_visible(bool(values))
    if values:
        axis.legend()
