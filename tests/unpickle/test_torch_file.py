"""Foreign pickles: read what is data, execute nothing, and fail in one line."""

import collections
import contextlib
import enum
import os
import pathlib
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.data import AttributeDict
from torch import Tensor, nn

from atomslim.errors import CheckpointError
from atomslim.unpickle.program import Foreign
from atomslim.unpickle.torch_file import StoredTensor, read_pt

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
LEGACY = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


class Container:
    class Nested:
        def __init__(self) -> None:
            self.value = 1

    class Choice(enum.Enum):
        FIRST = 1

    class Sequence(list[int]):
        """Pickled by appending to it."""

    class Table(dict[str, int]):
        """Pickled by setting its items."""

    class Group(set[int]):
        """Pickled by adding to it."""


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call

    def __call__(self) -> None:
        """Be callable, as what is pickled as the function of another call must be."""


def write(path: Path, content: object, *, legacy: bool = False, protocol: int = 2) -> Path:
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return path


def write_program(path: Path, program: bytes, **records: bytes) -> Path:
    """Write a file whose pickle is given byte by byte."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return path


def typed_storage(tensor: Tensor) -> torch.storage.TypedStorage:
    return torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True)


def tensors() -> dict[str, Tensor]:
    whole = torch.randn(3, 4)
    parameter = nn.Parameter(torch.randn(2))
    parameter.tag = Container.Nested()  # type: ignore[attr-defined]
    labelled = torch.randn(2)
    labelled.tag = 1  # type: ignore[attr-defined]
    return {
        **{str(dtype): torch.randint(0, 2, (2, 3)).to(dtype) for dtype in DTYPES},
        "whole": whole,
        "row of it": whole[1],
        "transposed": whole.T,
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "parameter": nn.Parameter(torch.randn(2)),
        "parameter with attributes": parameter,
        "tensor with attributes": labelled,
    }


@LEGACY
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_come_back_as_they_were(tmp_path: Path, legacy: bool, protocol: int) -> None:
    expected = tensors()
    content = {"state_dict": collections.OrderedDict(expected), "pair": (expected["whole"], [1, 2.5, "text", None])}
    found = read_pt(write(tmp_path / "file", content, legacy=legacy, protocol=protocol))
    assert found["state_dict"].keys() == expected.keys()
    for name, tensor in expected.items():
        stored = found["state_dict"][name]
        assert isinstance(stored, StoredTensor)
        assert (stored.shape, stored.dtype) == (tensor.shape, tensor.dtype)
        assert torch.equal(stored.read(), tensor.detach())
        assert stored.read().is_contiguous()
    assert found["pair"][1] == [1, 2.5, "text", None]
    assert torch.equal(found["pair"][0].read(), expected["whole"])


@LEGACY
def test_classes_from_elsewhere_are_stood_in_for(tmp_path: Path, legacy: bool) -> None:
    objects = {
        "nested class": Container.Nested(),
        "enumeration": Container.Choice.FIRST,
        "list": Container.Sequence([1, 2, 3]),
        "dictionary": Container.Table(a=1),
        "set": Container.Group({1, 2}),
        "hyper-parameters": AttributeDict(width=3),
        "counter": collections.Counter("abc"),
        "default": collections.defaultdict(list, a=[1]),
        "path": pathlib.PurePosixPath("a/b"),
        "array": np.ones(3),
        "number": np.float64(1.5),
        "function": os.getcwd,
        "dtype": torch.float32,
        "size": torch.Size([1, 2]),
    }
    content = {"objects": objects, "state_dict": {"weight": torch.ones(2)}, "keys": {Container.Choice.FIRST: 1}}
    found = read_pt(write(tmp_path / "file", content, legacy=legacy))
    assert found["objects"] == dict.fromkeys(objects, Foreign)
    assert torch.equal(found["state_dict"]["weight"].read(), torch.ones(2))


def hostile(sentinel: Path) -> dict[str, object]:
    """Objects that would make the sentinel file if they were unpickled carelessly."""
    code = f"__import__('os').mknod({str(sentinel)!r})"
    nested = sentinel.with_suffix(".pt")
    torch.save(Calls(os.system, f"touch {sentinel}"), nested)
    return {
        "system": Calls(os.system, f"touch {sentinel}"),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "mknod": Calls(os.mknod, str(sentinel)),
        "attribute": Calls(Calls(getattr, Calls(__import__, "os"), "system"), f"touch {sentinel}"),
        "nested stream": Calls(torch.storage._load_from_bytes, nested.read_bytes()),
        "tensor of another type": Calls(
            torch._tensor._rebuild_from_type_v2, os.system, type(None), (f"touch {sentinel}",), None
        ),
        "map": Calls(list, Calls(map, os.system, [f"touch {sentinel}"])),
        "module": Calls(__import__, "this"),
    }


@LEGACY
def test_nothing_is_executed_or_imported(tmp_path: Path, legacy: bool) -> None:
    sentinel = tmp_path / "sentinel"
    for name, payload in hostile(sentinel).items():
        path = tmp_path / name
        content = {"payload": payload, "state_dict": {"weight": torch.ones(2)}}
        found = read_pt(write(path, content, legacy=legacy))
        assert found["payload"] is Foreign
        assert not sentinel.exists()
        assert "this" not in sys.modules


def test_the_hostile_objects_are_hostile(tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    payloads = hostile(sentinel)
    del payloads["module"]
    for name, payload in payloads.items():
        with contextlib.suppress(AttributeError):  # what a call gives need not be a tensor
            torch.load(write(tmp_path / name, payload), weights_only=False)
        assert sentinel.exists(), name
        sentinel.unlink()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch sentinel'\ntR.",  # REDUCE
        b"(S'touch sentinel'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch sentinel'\no.",  # OBJ
        b"\x80\x02cos\nsystem\nU\x0etouch sentinel\x85\x81.",  # NEWOBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch sentinel\x85R.",  # STACK_GLOBAL
        b"cbuiltins\ngetattr\n(cos\nsystem\nS'__class__'\ntR(tR.",
    ],
)
def test_no_opcode_calls_a_function(program: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_pt(write_program(tmp_path / "file.pt", program)) is Foreign
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize(
    "what",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ccollections\nOrderedDict\n",
        b"ctorch\nFloatStorage\n",
        b"cos\nsystem\n",
    ],
)
@pytest.mark.parametrize("state", [b"(dS'name'\nS'x'\ns", b"(N(dS'name'\nS'x'\nst"])
def test_no_state_sticks_to_what_all_files_share(what: bytes, state: bytes, tmp_path: Path) -> None:
    with contextlib.suppress(CheckpointError):
        read_pt(write_program(tmp_path / "hostile.pt", what + state + b"b."))
    content = {"state_dict": collections.OrderedDict(weight=torch.ones(2))}
    found = read_pt(write(tmp_path / "next.pt", content))
    assert torch.equal(found["state_dict"]["weight"].read(), torch.ones(2))
    assert not hasattr(Foreign, "name")


@LEGACY
def test_a_file_cut_off_anywhere_is_one_line(tmp_path: Path, legacy: bool) -> None:
    whole = write(tmp_path / "whole.pt", {"state_dict": tensors()}, legacy=legacy).read_bytes()
    path = tmp_path / "cut.pt"
    for size in [1, 2, 5, 20, 100, *range(200, len(whole), 397), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"cut off, damaged.*copy or download it again") as caught:
            read_pt(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


@LEGACY
def test_flipped_bytes_never_do_worse_than_fail(tmp_path: Path, legacy: bool) -> None:
    whole = write(tmp_path / "whole.pt", {"state_dict": {"weight": torch.ones(2)}}, legacy=legacy).read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "flipped.pt"
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[random.integers(len(whole))] = random.integers(256)
        path.write_bytes(flipped)
        try:
            read_pt(path)
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most flips are harmless


def rebuilt(*args: object) -> object:
    return Calls(torch._utils._rebuild_tensor_v2, typed_storage(torch.ones(4)), *args, False, collections.OrderedDict())


@LEGACY
@pytest.mark.parametrize(
    ("description", "problem"),
    [
        ((1, (4,), (1,)), "beyond"),
        ((0, (2, 2), (4, 1)), "beyond"),
        ((-1, (2,), (1,)), "beyond"),
        ((0, (2,), (-1,)), "beyond"),
        ((0, (2, 2), (1,)), "not described"),
        ((0, ("2",), (1,)), "not described"),
        ((None, (2,), (1,)), "not described"),
        ((0, (2.0,), (1,)), "not described"),
    ],
)
def test_a_tensor_must_lie_in_its_storage(
    description: tuple[object, ...], problem: str, tmp_path: Path, legacy: bool
) -> None:
    with pytest.raises(CheckpointError, match=problem):
        read_pt(write(tmp_path / "file.pt", rebuilt(*description), legacy=legacy))


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI1000\ntQ.", "too short"),
        (b"(S'storage'\nctorch\nFloatStorage\nS'1'\nS'cpu'\nI1\ntQ.", "KeyError"),
        (b"(S'storage'\ncos\nsystem\nS'0'\nS'cpu'\nI1\ntQ.", "no known type"),
        (b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI-1\ntQ.", "no known type"),
        (b"(S'other'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI1\ntQ.", "unknown reference"),
        (b"(tQ.", "IndexError"),
        (b"Ptext\n.", "out of place"),
        (b"I1\n", "EOFError"),
        (b"garbage", "has no end"),
    ],
)
def test_an_archive_that_makes_no_sense_is_one_line(program: bytes, problem: str, tmp_path: Path) -> None:
    path = write_program(tmp_path / "file.pt", program, **{"data/0": struct.pack("<4f", 1, 2, 3, 4)})
    with pytest.raises(CheckpointError, match=problem) as caught:
        read_pt(path)
    assert "\n" not in str(caught.value)


def test_an_archive_of_another_kind_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "text")
    with pytest.raises(CheckpointError, match=r"without data\.pkl"):
        read_pt(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"I1\n.")
    with pytest.raises(CheckpointError, match="compressed"):
        read_pt(path)
    with pytest.raises(CheckpointError, match="big-endian"):
        read_pt(write_program(path, b"I1\n.", byteorder=b"big"))


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "file.pt", {"weight": torch.ones(1000)})
    before = path.read_bytes()
    read_pt(path)["weight"].read().zero_()
    assert path.read_bytes() == before
    assert torch.equal(read_pt(path)["weight"].read(), torch.ones(1000))


def test_a_tensor_outlives_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "file.pt", {"weight": torch.ones(1000)})
    weight = read_pt(path)["weight"].read()
    path.unlink()
    assert torch.equal(weight, torch.ones(1000))
