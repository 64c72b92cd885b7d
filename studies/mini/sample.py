"""Make the sample that comes with the package: what pre-training of atomslim-mini held out, and the dynamics.

Run `atomslim data generate -o generated/ --domains dynamics --structures 300`, and from the repository's root
`python studies/mini/sample.py generated/ runs/mini src/atomslim/data/mini`.
"""

import sys
from pathlib import Path

from atomslim.data.container import SUFFIX, Container
from atomslim.data.splits import Split
from atomslim.data.staging import write_container


def main(generated: Path, run: Path, output: Path) -> None:
    """Write one container for each domain: validation and test groups, and all of the dynamics."""
    for path in sorted(generated.glob(f"*{SUFFIX}")):
        whole = Container(path)
        numbers = range(len(whole))
        if (noted := run / f"split.{path.stem}.json").exists():
            split = Split.load(noted)
            numbers = sorted([*split.validation, *split.test])
        metadata = {name: value for name, value in whole.metadata.items() if name not in {"made", "groups", "columns"}}
        made = write_container(output / path.name, (whole[number] for number in numbers), metadata)
        print(f"{made.path}: {len(made)} of {len(whole)} structures, {made.path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
