"""Contents of a MACE file: whole modules of the package, read as data. No module is built and no code runs."""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from atomslim.unpickle.program import Foreign, Function, Inert
from atomslim.unpickle.torch_file import StoredTensor, read_pt

MODELS = ("MACE", "ScaleShiftMACE")
"""Classes of models that are read."""

OTHER_MODELS = ("AtomicDipolesMACE", "AtomicDielectricMACE", "EnergyDipolesMACE", "PolarMACE", "MACELES")

INTERACTIONS = (
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
    "RealAgnosticAttResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
)
READOUTS = ("LinearReadoutBlock", "NonLinearReadoutBlock", "NonLinearBiasReadoutBlock")

GATES = {"silu": "silu", "tanh": "tanh", "abs": "abs"}
"""Activations of readouts by the names that files give them."""


class Stored(Inert):
    """An object of a class: its arguments and its state."""

    __slots__ = ("args", "state")
    kind: ClassVar[str] = ""
    args: tuple[Any, ...]
    state: dict[str, Any]

    def __new__(cls, *args: Any, **_options: Any) -> Self:
        """Keep the arguments."""
        made = super().__new__(cls)
        made.args, made.state = args, {}
        return made

    def __init__(self, *_args: Any, **_options: Any) -> None:
        """Take any arguments."""

    def __setstate__(self, *state: Any) -> None:
        if len(state) == 1 and isinstance(state[0], dict):
            self.state = state[0]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, a module, a buffer or a parameter."""
        for table in (None, "_modules", "_buffers", "_parameters"):
            entries = self.state if table is None else self.state.get(table)
            if isinstance(entries, Mapping) and name in entries:
                return entries[name]
        return default

    def modules(self, name: str) -> list["Stored"]:
        """Return the modules of a list."""
        entries = getattr(self.get(name), "state", {}).get("_modules", {})
        return [one for one in entries.values() if isinstance(one, Stored)]


def _class(name: str) -> Any:
    return type(name, (Stored,), {"__slots__": (), "kind": name})


_TORCH = "functions of torch"


def _attribute(of: object, name: object) -> object:
    """Give the name under which a pickle looks up one of torch's functions; for all else nothing."""
    return name if of == _TORCH else Foreign


_CLASSES = {
    "mace.modules.models": (*MODELS, *OTHER_MODELS),
    "mace.modules.extensions": OTHER_MODELS,
    "mace.modules.blocks": (
        *INTERACTIONS,
        *READOUTS,
        "AtomicEnergiesBlock",
        "EquivariantProductBasisBlock",
        "LinearNodeEmbeddingBlock",
        "RadialEmbeddingBlock",
        "ScaleShiftBlock",
    ),
    "mace.modules.radial": (
        "AgnesiTransform",
        "BesselBasis",
        "ChebychevBasis",
        "GaussianBasis",
        "PolynomialCutoff",
        "RadialMLP",
        "SoftTransform",
        "ZBLBasis",
    ),
    "mace.modules.symmetric_contraction": ("Contraction", "SymmetricContraction"),
    "mace.modules.wrapper_ops": ("CuEquivarianceConfig", "OEQConfig"),
    "e3nn.o3._irreps": ("Irrep", "Irreps", "_MulIr"),
    "e3nn.o3._linear": ("Linear",),
    "e3nn.o3._spherical_harmonics": ("SphericalHarmonics",),
    "e3nn.o3._tensor_product._sub": ("FullyConnectedTensorProduct",),
    "e3nn.o3._tensor_product._tensor_product": ("TensorProduct",),
    "e3nn.nn._activation": ("Activation",),
    "e3nn.nn._fc": ("FullyConnectedNet", "_Layer"),
    "e3nn.math._normalize_activation": ("normalize2mom",),
    "torch.nn.modules.container": ("ModuleList", "ParameterList", "Sequential"),
    "torch.nn.modules.linear": ("Linear",),
    "torch.nn.modules.normalization": ("LayerNorm",),
}
NAMES: dict[tuple[str, str], Any] = {
    **{(module, name): _class(name) for module, names in _CLASSES.items() for name in names},
    ("torch.nn.functional", "silu"): "silu",
    ("torch._C", "_VariableFunctionsClass"): _TORCH,
    **{(module, "getattr"): Function(_attribute) for module in ("builtins", "__builtin__")},
}
"""Names in MACE files that are kept as data. All others are ignored."""


def read_stored(path: Path) -> Any:
    """Return what a file holds; raises CheckpointError for one that is damaged or no file of torch.save."""
    return read_pt(path, NAMES)


def is_model(content: object) -> bool:
    """Say whether what a file holds is a model of MACE."""
    return isinstance(content, Stored) and content.kind in (*MODELS, *OTHER_MODELS)


def tensors_of(module: Stored, prefix: str = "") -> Iterator[tuple[str, StoredTensor]]:
    """Give all parameters and buffers by name, as `state_dict` does."""
    for table in ("_parameters", "_buffers"):
        for name, value in dict(module.state.get(table) or {}).items():
            if isinstance(value, StoredTensor):
                yield f"{prefix}{name}", value
    for name, child in dict(module.state.get("_modules") or {}).items():
        if isinstance(child, Stored):
            yield from tensors_of(child, f"{prefix}{name}.")


def irreps_of(value: object) -> str:
    """Write irreps as e3nn does, such as 8x0e+8x1o; raises UnpicklingError for anything else."""
    if isinstance(value, str):
        return value
    entries = _tuple(value)
    found = []
    for entry in entries:
        mul, irrep = _tuple(entry)
        degree, parity = _tuple(irrep)
        found.append(f"{mul:d}x{degree:d}{ {1: 'e', -1: 'o'}[parity] }")
    return "+".join(found)


def _tuple(value: object) -> tuple[Any, ...]:
    args = getattr(value, "args", value)
    if not isinstance(args, tuple):
        raise pickle.UnpicklingError("irreps that are not tuples")
    return args[0] if len(args) == 1 and isinstance(args[0], tuple) and isinstance(value, Stored) else args
