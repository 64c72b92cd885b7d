"""Make what comes with the package: the weights, in half precision, and the structures that pre-training held out.

Run `atomslim data generate -o generated/ --domains dynamics --structures 300`, and from the repository's root
`python studies/mini/embed.py mini runs/mini` for a model, and
`python studies/mini/embed.py sample generated/ runs/mini` for the sample, which both models share.
"""

import sys
from pathlib import Path

from atomslim import load, save
from atomslim.data.container import SUFFIX, Container
from atomslim.data.readers.mini import FOLDER
from atomslim.data.splits import Split
from atomslim.data.staging import write_container
from atomslim.families.jmp.embedded import HERE


def embed(name: str, run: Path) -> None:
    """Write the best weights of a run under a model's name; its history names data by file and folder, not by more."""
    model = load(run / "best.safetensors").half()
    for entry in model.history:
        if "data" in entry:
            entry["data"] = ["/".join(Path(path).parts[-2:]) for path in entry["data"]]
    save(model, HERE / f"{name}.safetensors")


def sample(generated: Path, run: Path) -> None:
    """Write validation and test groups of each domain, and all of the dynamics."""
    for path in sorted(generated.glob(f"*{SUFFIX}")):
        whole = Container(path)
        numbers = range(len(whole))
        if (noted := run / f"split.{path.stem}.json").exists():
            split = Split.load(noted)
            numbers = sorted([*split.validation, *split.test])
        metadata = {name: value for name, value in whole.metadata.items() if name not in {"made", "groups", "columns"}}
        made = write_container(FOLDER / path.name, (whole[number] for number in numbers), metadata)
        print(f"{made.path}: {len(made)} of {len(whole)} structures, {made.path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    what, *paths = sys.argv[1:]
    sample(*map(Path, paths)) if what == "sample" else embed(what, *map(Path, paths))
