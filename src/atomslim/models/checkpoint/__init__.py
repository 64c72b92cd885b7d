"""Model files: JMP's checkpoints in and out, and self-describing files of our own.

| file | what it does |
|---|---|
| files.py | `load`, `save`, `export_jmp`: the public functions, and our own format |
| metadata.py | what our files say of a model beside its tensors |
| jmp.py, jmp_layout.py, jmp_sizes.py | JMP's format: reading and writing, names, sizes read off shapes |
| unpickle.py | reads the files of `torch.save` without running anything in them |
| tensors.py, retask.py | checks of tensors; replacing the settings of tasks |
"""

from atomslim.models.checkpoint.files import checksum, export_jmp, load, save
from atomslim.models.checkpoint.jmp import Weights

__all__ = ["Weights", "checksum", "export_jmp", "load", "save"]
