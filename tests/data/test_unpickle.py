import io
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atomslim.data.unpickle import _plain_storage, graph_fields, load, loads
from atomslim.errors import DataError
from data.graph_objects import new_layout, old_layout


class Attack:
    """Pickles as a call of a function that leaves a file behind."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sentinel,)


class Call:
    """Pickles as a call of a global name with arguments."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def global_call(name: str, argument: bytes, protocol: int = 2) -> bytes:
    """Write by hand a pickle that calls `module name` with one argument."""
    return b"\x80" + bytes([protocol]) + f"c{name}\n".encode() + argument + b"\x85R."


def nested(payload: bytes) -> bytes:
    """Put bytes where a tensor's storage belongs."""
    return pickle.dumps(Call(torch.storage._load_from_bytes, payload))


def stream_of(tensor: torch.Tensor) -> bytes:
    """Give the stream of a tensor's storage, as a pickled tensor contains it."""
    stream = io.BytesIO()
    storage = torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True)
    torch.save(storage, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("layout", [new_layout, old_layout])
def test_graph_objects_of_both_layouts_give_their_fields(layout: Any, protocol: int) -> None:
    fields = {"y": -1.5, "pos": torch.arange(6.0).reshape(2, 3), "tags": torch.tensor([0, 2]), "sid": "a"}
    read = graph_fields(loads(layout(protocol, **fields), "here"), "here")
    assert read.keys() == fields.keys()
    assert read["y"] == -1.5
    assert read["sid"] == "a"
    np.testing.assert_array_equal(read["pos"], fields["pos"].numpy())  # type: ignore[attr-defined]
    assert read["pos"].dtype == np.float32
    assert read["tags"].tolist() == [0, 2]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(100_000),
        torch.arange(300, dtype=torch.int32),
        torch.tensor(2.5),
        torch.tensor([2.5]),
        torch.arange(12.0).reshape(3, 4).T,
        torch.arange(12)[3:7:2],
        torch.zeros(0, 3),
        torch.ones(1).expand(5),
        torch.tensor([True, False]),
        torch.arange(4, dtype=torch.float64),
        torch.arange(4, dtype=torch.float16),
        torch.arange(4, dtype=torch.uint8),
        torch.ones(3, requires_grad=True),
    ],
    ids=lambda tensor: f"{tensor.dtype}{tuple(tensor.shape)}",
)
def test_tensors_of_any_shape_come_as_arrays(tensor: torch.Tensor) -> None:
    read = graph_fields(loads(new_layout(x=tensor), "here"), "here")["x"]
    expected = tensor.detach().numpy()
    assert read.dtype == expected.dtype
    assert read.shape == expected.shape
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64, torch.int32, torch.bool])
@pytest.mark.parametrize("count", [0, 1, 255, 256, 65_536])
def test_the_quick_way_to_read_a_storage_agrees_with_torchs_own(dtype: torch.dtype, count: int) -> None:
    stream = stream_of(torch.arange(count).to(dtype))
    quick = _plain_storage(stream)
    assert quick is not None
    expected = torch.empty(0, dtype=dtype).set_(torch.load(io.BytesIO(stream), weights_only=True))
    np.testing.assert_array_equal(quick, expected.numpy())
    assert quick.dtype == expected.numpy().dtype


def test_a_storage_that_is_not_as_expected_is_left_to_torch() -> None:
    stream = stream_of(torch.arange(4.0))
    assert _plain_storage(stream[:-1]) is None
    assert _plain_storage(stream + b"x") is None
    assert _plain_storage(stream.replace(b"FloatStorage", b"HalfStorage")) is None
    assert _plain_storage(stream.replace(b"cpu", b"dev")) is None


@pytest.mark.parametrize("protocol", range(5))
def test_numpy_values_are_read(protocol: int) -> None:
    fields = {
        "scalar": np.float64(-3.25),
        "big_endian": np.array([1, 2], dtype=">i4"),
        "matrix": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }
    read = graph_fields(loads(new_layout(protocol, **fields), "here"), "here")
    assert read["scalar"] == -3.25
    assert read["big_endian"].tolist() == [1, 2]
    np.testing.assert_array_equal(read["matrix"], fields["matrix"])


def test_numpy_values_under_numpy_1s_names_are_read() -> None:
    content = pickle.dumps({"random1": np.float64(2.0)}, protocol=2)
    content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert loads(content, "here") == {"random1": 2.0}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_hostile_runs(tmp_path: Path, protocol: int) -> None:
    sentinel = tmp_path / "sentinel"
    attacks = [
        pickle.dumps(Attack(sentinel), protocol),
        pickle.dumps([OrderedDict(a=Attack(sentinel))], protocol),
        new_layout(protocol, y=Attack(sentinel)),
        old_layout(protocol, y=Attack(sentinel)),
    ]
    for attack in attacks:
        with pytest.raises(DataError, match=r"^here: refused, as it names .*nothing was run"):
            loads(attack, "here")
    assert not sentinel.exists()
    pickle.loads(attacks[0])  # noqa: S301 - the attack is a real one
    assert sentinel.exists()


def test_nothing_hostile_runs_that_is_hidden_in_a_tensor(tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    legacy, archive = io.BytesIO(), io.BytesIO()
    torch.save(Attack(sentinel), legacy, _use_new_zipfile_serialization=False)
    torch.save(Attack(sentinel), archive)
    for payload in (legacy.getvalue(), archive.getvalue(), pickle.dumps(Attack(sentinel))):
        with pytest.raises(DataError, match=r"^here: cut off or damaged"):
            loads(nested(payload), "here")
        with pytest.raises(DataError, match=r"^here: cut off or damaged"):
            loads(new_layout(pos=Call(torch.storage._load_from_bytes, payload)), "here")
    assert not sentinel.exists()
    torch.storage._load_from_bytes(legacy.getvalue())
    assert sentinel.exists()  # torch's own function runs it


def test_torchs_setting_to_load_unsafely_has_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    legacy = io.BytesIO()
    torch.save(Attack(tmp_path / "sentinel"), legacy, _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match=r"^here: cut off or damaged"):
        loads(nested(legacy.getvalue()), "here")
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize(
    "name",
    [
        "os\nsystem",
        "builtins\neval",
        "builtins\ngetattr",
        "numpy\nload",
        "torch\nload",
        "torch_geometric.data.data\nDataEdgeAttr.__init__.__globals__",
        "torch.serialization\n_load",
        "collections\nOrderedDict.__init__",
    ],
)
def test_any_other_name_is_refused_by_name(name: str) -> None:
    with pytest.raises(DataError, match=rf"^here: refused, as it names {name.replace(chr(10), '.')}, ") as caught:
        loads(global_call(name, b"X\x02\x00\x00\x00ls"), "here")
    assert "\n" not in str(caught.value)


def test_a_name_with_line_breaks_gives_a_message_of_one_line() -> None:
    content = b"\x80\x04\x8c\x04a\nb\n\x8c\x03c\nd\x93."
    with pytest.raises(DataError, match=r"names a b \.c d,") as caught:
        loads(content, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Call(torch.storage._load_from_bytes, "text")),
        pickle.dumps(Call(torch.storage._load_from_bytes, b"")),
        pickle.dumps(Call(torch._utils._rebuild_tensor_v2, None, 0, (3,), (1,))),
        new_layout(x=Call(np._core.multiarray.scalar, np.dtype("O"), [])),  # type: ignore[attr-defined]
        new_layout(x=np.array([1, "a"], dtype=object)),
        new_layout(x=Call(np._core.multiarray.scalar, np.dtype("f8"), b"")),  # type: ignore[attr-defined]
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00ab0.",
        b"\x80\x02ctorch_geometric.data.data\nData\n}b.",
        b"\x80\x02ctorch_geometric.data.data\nData\n)\x81K\x01b.",
        b"",
        b"no pickle",
    ],
)
def test_damaged_and_crafted_pickles_give_one_line(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^here: (cut off or damaged|holds a|refused)") as caught:
        graph_fields(loads(content, "here"), "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [(0, (7,), (1,)), (3, (4,), (1,)), (0, (2, 3), (4, 1)), (0, (2**50,), (0,)), (-1, (2,), (1,)), (0, (-2,), (1,))],
)
def test_a_tensor_stays_within_its_storage(offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    storage = Call(torch.storage._load_from_bytes, stream_of(torch.ones(6)))
    content = pickle.dumps(Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, stride, False, OrderedDict()))
    with pytest.raises(DataError, match="a tensor that reaches beyond its storage"):
        loads(content, "here")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_a_pickle_that_is_cut_off_is_said_to_be(keep: float) -> None:
    content = new_layout(pos=torch.ones(20, 3), y=1.0)
    with pytest.raises(DataError, match=r"^here: cut off or damaged"):
        loads(content[: int(keep * len(content))], "here")


@pytest.mark.parametrize(
    ("content", "kind"), [([], "list"), ({"a": 1}, "dict"), (3, "int"), (OrderedDict(), "mapping")]
)
def test_what_is_no_graph_object_is_said_to_be_so(content: object, kind: str) -> None:
    with pytest.raises(DataError, match=f"^here: holds a {kind} where a graph object is expected"):
        graph_fields(loads(pickle.dumps(content), "here"), "here")


def test_a_file_that_is_not_there_is_said_not_to_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.pkl: cannot be opened"):
        load(tmp_path / "none.pkl")


def test_reading_imports_no_module_that_a_file_names(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    fake = types.ModuleType("torch_geometric.data.data")
    monkeypatch.setitem(sys.modules, "torch_geometric.data.data", fake)
    monkeypatch.setattr(fake, "__getattr__", imported.append, raising=False)
    loads(new_layout(y=1.0), "here")
    assert imported == []


def test_real_pickles_hold_graph_objects(data_folder: Path) -> None:
    for path in sorted(data_folder.glob("*/*.pkl")):
        graphs = load(path)
        assert len(graphs) == 16
        assert all({"y", "pos", "force", "natoms"} <= graph_fields(graph, str(path)).keys() for graph in graphs)
