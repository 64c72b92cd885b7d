#!/bin/bash
# The physics of cuts of SevenNet-0 and CHGNet in MgO and NaCl, each against its full model:
#
#     studies/solids.sh runs/solids
#
# Calibration frames of each salt are labelled by the full model; readouts are fitted to its energies, forces and stress.
set -e
out=$1; mkdir -p "$out"; here=$(dirname "$0")
A="${ATOMSLIM:-atomslim}"; P="${PYTHON:-python}"
"$P" - "$out" <<'P'
import sys
from ase.build import bulk
from ase.io import write
for name, length in {"MgO": 4.21, "NaCl": 5.64}.items():
    write(f"{sys.argv[1]}/{name}.xyz", bulk(name, "rocksalt", a=length))
P
cut() { # family, model, name of the cut, options of prune
  [ -e "$out/$1-$3.safetensors" ] || "$A" prune "$2" -o "$out/$1-$3.safetensors" "${@:4}" --data "$out/$1-train.xyz" --limit 64
}
for family in sevennet:7net-0 chgnet:0.3.0; do
  name=${family%%:*}
  for salt in MgO:4.21 NaCl:5.64; do
    [ -e "$out/$name-${salt%%:*}.frames.xyz" ] || "$P" "$here/frames.py" $family ${salt%%:*} ${salt##*:} -o "$out/$name-${salt%%:*}.frames.xyz" --rattled 24 --snapshots 8
  done
  cat "$out/$name-MgO.frames.xyz" "$out/$name-NaCl.frames.xyz" > "$out/$name-train.xyz"
done
for kind in least-squares least-squares-forces; do
  for blocks in 4 3 2; do cut sevennet sevennet:7net-0 $blocks-$kind --blocks $blocks --realign $kind; done
  for blocks in 3 2; do cut chgnet chgnet:0.3.0 $blocks-$kind --blocks $blocks --realign $kind; done
  cut chgnet chgnet:0.3.0 angles-$kind --blocks 4 --without "angles 1,angles 2" --realign $kind
done
for family in sevennet:7net-0 chgnet:0.3.0; do
  name=${family%%:*}
  for model in "$out/$name"-*.safetensors; do
    "$A" validate "$model" "$out/MgO.xyz" "$out/NaCl.xyz" --against $family -o "${model%.safetensors}" \
      --checks cell --checks "equation of state" --checks "elastic constants" --checks phonons || true
    "$A" evaluate "$model" "xyz:$out/$name-train.xyz" --json > "${model%.safetensors}.errors.json" || true
  done
done
