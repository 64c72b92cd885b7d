"""The paper's own numbers (arXiv 2504.19538), shown beside ours."""

from statistics import geometric_mean

from atomslim.study.options import Strategy

BLOCKS = 6
"""Of JMP-L."""

TASKS = ("oc20", "oc22", "ani1x", "transition1x")

FORCE_MAE: dict[Strategy, dict[int, tuple[float, float, float, float]]] = {
    "full": {6: (17.0, 22.9, 22.5, 12.7)},
    "sliced": {
        5: (39.1, 45.7, 220.0, 48.5),
        4: (65.3, 68.9, 443.4, 99.8),
        3: (94.1, 99.3, 615.1, 149.6),
        2: (106.6, 111.9, 711.8, 188.3),
    },
    "distilled": {
        5: (19.8, 25.8, 30.1, 16.0),
        4: (26.7, 34.5, 58.1, 24.2),
        3: (42.1, 45.6, 97.6, 39.1),
        2: (52.1, 56.3, 144.4, 53.3),
    },
}
"""Table 1: strategy → blocks → force MAE in meV/Å on the tasks of `TASKS`, JMP-L."""

EFFICIENCY: dict[int, tuple[float, float, float]] = {
    6: (19.1, 1.74, 160.9),
    5: (21.8, 1.45, 134.5),
    4: (25.6, 1.16, 108.2),
    3: (30.8, 0.87, 81.9),
    2: (38.0, 0.59, 55.5),
}
"""Table 2: blocks → samples/s, GFLOPs (the paper's count), millions of parameters; QMOF validation subset, V100."""

LONG_RECIPE: dict[str, tuple[float, str]] = {
    "rmd17:aspirin": (5.1, "meV/Å"),
    "qm9:U0": (2.9, "meV"),
    "md22:Ac-Ala3-NHMe": (1.92, "meV/Å"),
    "spice:solvated_amino_acids": (4.75, "meV/Å"),
    "qmof": (160.0, "meV"),
}
"""Dataset → test MAE of the whole JMP-L with its own long fine-tuning (arXiv 2310.16802), for orientation."""

FIGURE_3 = (
    "In the paper's Fig. 3, 5 blocks match 6; 4 stay competitive and beat 6 on QM9; 3 and 2 drop. Distillation helps "
    "2 and 3 blocks on rMD17 and hurts 4 and 5 there; a random first layer hurts rMD17 and QM9, not the others."
)


def growth(strategy: Strategy, blocks: int | None) -> float | None:
    """Return how many times the full model's force error a variant has: the geometric mean over the paper's tasks."""
    found = FORCE_MAE.get(strategy, {}).get(BLOCKS if blocks is None else blocks)
    if found is None:
        return None
    return geometric_mean(own / full for own, full in zip(found, FORCE_MAE["full"][BLOCKS], strict=True))
