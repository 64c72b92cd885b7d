"""Takes the small structures of a file, for studies on one core.

python studies/small_frames.py mptrj-random-1k.xyz --atoms 24 -o mptrj.xyz
"""

import argparse
from pathlib import Path

from ase.io import iread, write


def main() -> None:
    """Write the frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", help="a file that ASE reads")
    parser.add_argument("--atoms", type=int, default=24, help="the most that a structure may have")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    kept = [atoms for atoms in iread(given.frames, ":") if len(atoms) <= given.atoms]
    write(given.output, kept, format="extxyz")
    print(f"{len(kept)} structures of up to {given.atoms} atoms, {sum(map(len, kept))} atoms")


if __name__ == "__main__":
    main()
