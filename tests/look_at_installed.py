"""Looks at an atomslim that is installed from its wheel, without the packages that it needs: `make dist`."""

import sys
from importlib.metadata import entry_points, metadata
from importlib.resources import files

import atomslim

HELD = (
    "families/jmp/embedded/mini.safetensors",
    "recipes/finetune.yaml",
    "report/page.css",
    "report/structure_view.js",
    "py.typed",
)

missing = [name for name in HELD if not files("atomslim").joinpath(name).is_file()]
command = {point.name for point in entry_points(group="console_scripts")}
if missing or "atomslim" not in command or metadata("atomslim")["License-Expression"] != "MIT":
    sys.exit(f"the wheel lacks {missing or 'its command or its licence'}")
sys.stdout.write(f"atomslim {atomslim.__version__}: {len(HELD)} files and the command are there\n")
