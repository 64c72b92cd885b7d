"""What the options in a checkpoint of SevenNet mean: from the package's configuration to ours, and back."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ase.data import chemical_symbols
from e3nn.o3 import Irrep, Irreps
from pydantic import ValidationError
from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG as DEFAULTS
from sevenn.scripts.backward_compatibility import patch_old_config

from atomslim.arguments import first_problem
from atomslim.errors import CheckpointError
from atomslim.families.sevennet.config import SevenNetConfig
from atomslim.families.sevennet.irreps import SCALAR, convolution_paths, wanted

Version = tuple[int, int, int]


def understood(raw: Mapping[str, Any], where: str) -> tuple[Version, SevenNetConfig]:
    """Return the version that wrote a checkpoint, and its model's configuration.

    Raises CheckpointError for options that are missing, no plain data, or not supported.
    """
    try:
        major, minor, patch = str(raw["version"]).split(".")[:3]
        plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in raw.items()}
        options = {**DEFAULTS, **patch_old_config(plain)}
        return (int(major), int(minor), int(patch)), _config(options)
    except (ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else first_problem(error)
        raise CheckpointError(f"{where}: its options are not those of a SevenNet model: {problem}") from error


def _config(options: Mapping[str, Any]) -> SevenNetConfig:
    if options["interaction_type"] != "nequip":
        raise ValueError(f"interaction_type {options['interaction_type']!r}: only nequip is known")
    radial, envelope = options["radial_basis"], options["cutoff_function"]
    irreps = _irreps(options)
    connection = options["self_connection_type"]
    linear = options["readout_as_fcn"] is False
    bias = bool(options["use_bias_in_linear"])
    return SevenNetConfig.model_validate(
        {
            "species": sorted(options["_type_map"], key=options["_type_map"].__getitem__),
            "cutoff": options["cutoff"],
            "num_radial": radial.get("bessel_basis_num", 8),
            "envelope": envelope["cutoff_function_name"],
            "envelope_power": envelope.get("poly_cut_p_value", 6),
            "envelope_onset": envelope.get("cutoff_on", 0.0),
            "lmax_edge": _lmax_edge(options),
            "parity": options["is_parity"],
            "unit_vectors": options["_normalize_sph"],
            "irreps": irreps,
            "self_connection": [connection] * (len(irreps) - 1) if isinstance(connection, str) else connection,
            "radial_hidden": options["weight_nn_hidden_neurons"],
            "act_radial": options["act_radial"],
            "act_scalar": options["act_scalar"],
            "act_gate": options["act_gate"],
            "biases": bias,
            "readout_hidden": [Irreps(irreps[-1]).dim // 2] if linear else options["readout_fcn_hidden_neurons"],
            "act_readout": None if linear else options["readout_fcn_activation"],
            "readout_biases": bias and linear,
            "modality": _modality(options, linear=linear),
        }
    )


def _lmax_edge(options: Mapping[str, Any]) -> int:
    return options["lmax_edge"] if options["lmax_edge"] > 0 else options["lmax"]


def _irreps(options: Mapping[str, Any]) -> list[str]:
    """Return the irreps of the embedding and of all blocks, given or inferred."""
    given, blocks = options["irreps_manual"], options["num_convolution_layer"]
    edge = str(Irreps.spherical_harmonics(_lmax_edge(options), -1 if options["is_parity"] else 1))
    if given is not False:
        if len(given) != blocks + 1 or not all(isinstance(entry, str) for entry in given):
            raise ValueError(f"irreps_manual: {len(given)} texts are wanted, one more than there are blocks")
        _require_reached(given, edge)
        return list(given)
    lmax = options["lmax_node"] if options["lmax_node"] > 0 else options["lmax"]
    found = [f"{options['channel']}x0e"]
    for block in range(blocks):
        found.append(
            _reached(found[-1], edge, 0 if block == blocks - 1 else lmax, options["channel"], block == blocks - 1)
        )
    return found


def _require_reached(given: Sequence[str], edge: str) -> None:
    """Raise ValueError for irreps that a block reads although no message has them, which the package leaves at zero."""
    if any(entry.ir != SCALAR for entry in Irreps(given[0])):
        raise ValueError(f"irreps_manual: {given[0]} of the embedding, which has even scalars only, is not supported")
    there = {SCALAR}
    for block, (source, out) in enumerate(pairwise(given)):
        read = wanted(convolution_paths(source, edge, out, last=block == len(given) - 2), Irreps(out))
        absent = {path.source for path in read} - there
        if missing := [str(entry) for entry in Irreps(source) if entry.ir in absent]:
            raise ValueError(f"irreps_manual: {missing[0]} of block {block}, which no message has, are not supported")
        there = {entry.ir for entry in Irreps(out)} & (there | {path.message for path in read})


def _reached(source: str, edge: str, lmax: int, channels: int, last: bool) -> str:  # noqa: FBT001
    """Return all irreps up to a degree that messages can have."""
    limit = str(Irreps([(1, Irrep(lmax, 1))]))
    kinds = sorted({path.message for path in convolution_paths(source, edge, limit, last=last)})
    return str(Irreps([(channels, kind) for kind in kinds]))


def _modality(options: Mapping[str, Any], *, linear: bool) -> dict[str, Any]:
    if not options.get("use_modality", False):
        return {}
    index = options["_modal_map"]
    return {
        "names": sorted(index, key=index.__getitem__),
        "embedding": bool(options["use_modal_node_embedding"]),
        "intro": bool(options["use_modal_self_inter_intro"]),
        "outro": bool(options["use_modal_self_inter_outro"]),
        "readout": bool(options["use_modal_output_block"]) and linear,
    }


def options_of(config: SevenNetConfig) -> dict[str, Any]:
    """Return the options by which the package builds a model of this configuration."""
    envelope: dict[str, Any] = {"cutoff_function_name": config.envelope}
    if config.envelope == "XPLOR":
        envelope["cutoff_on"] = config.envelope_onset
    else:
        envelope["poly_cut_p_value"] = config.envelope_power
    fcn = config.act_readout is not None
    modality = config.modality
    lmax = max(Irreps(entry).lmax for entry in config.irreps)
    return {
        "_model_type": "E3_equivariant_model",
        "interaction_type": "nequip",
        "chemical_species": [chemical_symbols[number] for number in config.species],
        "_chemical_species_by_atomic_number": list(config.species),
        "_number_of_species": len(config.species),
        "_type_map": {number: index for index, number in enumerate(config.species)},
        "cutoff": config.cutoff,
        "channel": Irreps(config.irreps[0]).count(SCALAR),
        "lmax": lmax if config.lmax_edge > 0 else 0,
        "lmax_edge": config.lmax_edge or -1,
        "lmax_node": -1,
        "is_parity": config.parity,
        "irreps_manual": list(config.irreps),
        "num_convolution_layer": config.num_blocks,
        "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": config.num_radial},
        "cutoff_function": envelope,
        "act_radial": config.act_radial,
        "act_scalar": dict(config.act_scalar),
        "act_gate": dict(config.act_gate),
        "weight_nn_hidden_neurons": list(config.radial_hidden),
        "self_connection_type": list(config.self_connection),
        "use_bias_in_linear": config.biases,
        "readout_as_fcn": fcn,
        "readout_fcn_hidden_neurons": list(config.readout_hidden) if fcn else [30, 30],
        "readout_fcn_activation": config.act_readout or "relu",
        "_normalize_sph": config.unit_vectors,
        "train_denominator": False,
        "train_shift_scale": False,
        "use_modality": bool(modality.names),
        "_modal_map": {name: index for index, name in enumerate(modality.names)},
        "_number_of_modalities": len(modality.names),
        "use_modal_node_embedding": modality.embedding,
        "use_modal_self_inter_intro": modality.intro,
        "use_modal_self_inter_outro": modality.outro,
        "use_modal_output_block": modality.readout,
        "cuequivariance_config": {},
        "use_flash_tp": False,
        "use_oeq": False,
    }
