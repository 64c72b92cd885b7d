"""The paper's own numbers (arXiv 2504.19538), shown beside ours."""

FORCE_MAE: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "full": {"6": (17.0, 22.9, 22.5, 12.7)},
    "sliced": {
        "5": (39.1, 45.7, 220.0, 48.5),
        "4": (65.3, 68.9, 443.4, 99.8),
        "3": (94.1, 99.3, 615.1, 149.6),
        "2": (106.6, 111.9, 711.8, 188.3),
    },
    "distilled": {
        "5": (19.8, 25.8, 30.1, 16.0),
        "4": (26.7, 34.5, 58.1, 24.2),
        "3": (42.1, 45.6, 97.6, 39.1),
        "2": (52.1, 56.3, 144.4, 53.3),
    },
}
"""Table 1: strategy → blocks → force MAE in meV/Å on the tasks of `TASKS`, JMP-L."""

TASKS = ("oc20", "oc22", "ani1x", "transition1x")

EFFICIENCY: dict[int, tuple[float, float, float]] = {
    6: (19.1, 1.74, 160.9),
    5: (21.8, 1.45, 134.5),
    4: (25.6, 1.16, 108.2),
    3: (30.8, 0.87, 81.9),
    2: (38.0, 0.59, 55.5),
}
"""Table 2: blocks → samples/s, GFLOPs (the paper's count), millions of parameters; QMOF validation subset, V100."""
