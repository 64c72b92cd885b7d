"""Put generated data together for pre-training, without groups that come with the package: those measure the model.

python studies/mini-smooth/join.py joined/ generated/ more/ …
"""

import sys
from pathlib import Path

from atomslim.data import open_dataset
from atomslim.data.container import SUFFIX, Container
from atomslim.data.generate import FOUR
from atomslim.data.staging import write_container

OF_ONE = {"made", "groups", "columns", "generated"}
"""What the metadata say of one folder only."""


def main(output: str, *folders: str) -> None:
    """Write a container of each domain."""
    if missing := [folder for folder in folders if not Path(folder).is_dir()]:
        sys.exit(f"{missing[0]}: there is no such folder")
    Path(output).mkdir(parents=True, exist_ok=True)
    for domain in FOUR:
        name = f"{domain}{SUFFIX}"
        parts = [Container(path) for folder in folders if (path := Path(folder) / name).exists()]
        if not parts:
            continue
        held = {sample.group for sample in open_dataset(f"mini:{domain}")}
        everything = [part[number] for part in parts for number in range(len(part))]
        kept = [sample for sample in everything if sample.group not in held]
        metadata = {key: value for key, value in parts[0].metadata.items() if key not in OF_ONE}
        made = write_container(Path(output) / name, kept, metadata)
        print(f"{made.path}: {len(kept)} of {len(everything)} structures, {len({s.group for s in kept})} groups")


if __name__ == "__main__":
    main(*sys.argv[1:])
