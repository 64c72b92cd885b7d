"""Programs that ask for more than they hold: refused before they run, whatever reads them."""

import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atomslim.data.unpickle import loads
from atomslim.errors import CheckpointError, DataError
from atomslim.unpickle.program import Foreign, RefusedError, unpickled
from atomslim.unpickle.torch_file import read_pt

GIGABYTES = 2**31 - 1

BOMBS = {
    "remembered place": b"\x80\x02}r" + struct.pack("<I", GIGABYTES) + b".",
    "remembered place in text": b"(lp%d\n." % GIGABYTES,
    "place in digits without end": b"(lp" + b"9" * 5000 + b"\n.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**35) + b"x.",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**35) + b"x.",
    "old bytes": b"\x80\x03B" + struct.pack("<I", GIGABYTES) + b"x.",
    "byte array": b"\x80\x05\x96" + struct.pack("<Q", 2**35) + b"x.",
    "number": b"\x80\x02\x8b" + struct.pack("<I", GIGABYTES) + b"x.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**35) + b"N.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_few_bytes_get_no_gigabytes(name: str, tmp_path: Path) -> None:
    with pytest.raises((pickle.UnpicklingError, EOFError, ValueError)):
        unpickled(BOMBS[name], {})
    with pytest.raises(DataError, match=r"^here: cut off or damaged"):
        loads(BOMBS[name], "here")
    path = tmp_path / "bomb.pt"
    path.write_bytes(BOMBS[name])
    with pytest.raises(CheckpointError, match=r"bomb\.pt: cut off, damaged"):
        read_pt(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_the_command_line_needs_no_more_memory_for_a_bomb_than_for_a_model(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    path.write_bytes(BOMBS["remembered place"])
    # The process says its own peak: what the system keeps for children counts those of other tests, and their parent.
    code = "import sys; from atomslim.cli.main import main; failed = main(sys.argv[1:]); "
    code += "print(open('/proc/self/status').read()); sys.exit(failed)"
    done = subprocess.run([sys.executable, "-c", code, "info", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert int(done.stdout.split("VmHWM:")[1].split()[0]) < 2_000_000  # kB


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_program_is_walked_to_its_end_and_no_further(protocol: int) -> None:
    content = {"a": [1, 2.5, None, True, -3, 2**70, "text", "ä\n", b"bytes", (1,), {2}], "b": list(range(300))}
    shared = [content, content, [[]] * 3, bytearray(b"x"), "x" * 300, b"y" * 300]
    names = {("_codecs", "encode"): Foreign, ("builtins", "bytearray"): Foreign, ("builtins", "set"): Foreign}
    names |= {("__builtin__", "bytearray"): Foreign, ("__builtin__", "set"): Foreign, ("__builtin__", "bytes"): Foreign}
    program = pickle.dumps(shared, protocol)
    found, end = unpickled(b"before" + program + b"after", names, start=6)
    assert end == 6 + len(program)
    assert found[0]["b"] == content["b"]
    assert found[0] is found[1]


def test_names_that_are_not_listed_are_refused_or_stood_in_for() -> None:
    with pytest.raises(RefusedError, match=r"^os\.system$"):
        unpickled(b"cos\nsystem\n.", {})
    assert unpickled(b"cos\nsystem\n.", {}, others=Foreign)[0] is Foreign
    assert unpickled(b"cos\nsystem\n.", {("os", "system"): 3})[0] == 3


def test_tensors_that_show_few_numbers_many_times_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1).expand(10**9)}, tmp_path / "expanded.pt")
    whole = torch.ones(1000)
    torch.save([whole[:-1] for _ in range(100)], tmp_path / "again.pt")
    for path in tmp_path.iterdir():
        with pytest.raises(CheckpointError, match="again and again"):
            read_pt(path)
    torch.save([whole, whole.view(10, 100), whole[3:]], tmp_path / "shared.pt")
    assert len(read_pt(tmp_path / "shared.pt")) == 3
