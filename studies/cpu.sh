#!/bin/sh
# Cuts of SevenNet or CHGNet on one core: on one material with some minutes of training a student, and, where $MPTRJ is a
# file of MPtrj frames, for all elements. What is finished is not done again; what was stopped goes on where it was.
#
#     sh studies/cpu.sh sevennet runs
#     MPTRJ=mptrj-random-1k.xyz sh studies/cpu.sh chgnet runs
set -eu
here=$(cd "$(dirname "$0")" && pwd)
family=$1
case $family in
sevennet) model=sevennet:7net-0 ;;
chgnet) model=chgnet:0.3.0 ;;
*)
    echo "cpu.sh: sevennet or chgnet, not $family" >&2
    exit 1
    ;;
esac
if [ -n "${MPTRJ:-}" ]; then
    MPTRJ=$(cd "$(dirname "$MPTRJ")" && pwd)/$(basename "$MPTRJ")
fi
mkdir -p "$2/$family"
cd "$2/$family"

# Label frames of MgO with the full model, unless they are there.
frames() { # file, options
    file=$1
    shift
    [ -f "$file" ] && return
    python "$here/frames.py" "$model" MgO 4.25 --repeat 3 --temperatures 300 900 1500 -o "$file.$$.xyz" "$@"
    mv "$file.$$.xyz" "$file"
}

frames train.xyz --rattled 40 --snapshots 16
frames test.xyz --rattled 0 --snapshots 6 --seed 1
atomslim study "$here/$family/one-material-cpu.yaml" -o one-material
if [ -n "${MPTRJ:-}" ]; then
    [ -f mptrj.xyz ] || python "$here/small_frames.py" "$MPTRJ" --atoms 24 -o mptrj.xyz
    atomslim study "$here/$family/universal-cpu.yaml" -o universal
fi
