#!/bin/sh
# The studies of SevenNet and CHGNet, all of them, on one GPU; what is finished is not done again.
#
#     MPTRJ=/data/mptrj.lmdb sh studies/gpu.sh runs            # one material and all elements, of both models
#     sh studies/gpu.sh runs                                   # without $MPTRJ: one material only
#
# Several jobs may work on one folder at once: start it once for each GPU.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
runs=${1:-runs}
mkdir -p "$runs"
cd "$runs"

# Label frames of LiCl with a model, unless they are there.
frames() { # model, file, options
    model=$1 file=$2
    shift 2
    [ -f "$file" ] && return
    python "$here/frames.py" "$model" LiCl 5.14 -o "$file.$$.xyz" "$@"
    mv "$file.$$.xyz" "$file"
}

study() { # family, model
    mkdir -p "$1"
    (
        cd "$1"
        frames "$2" train.xyz --rattled 240 --snapshots 60
        frames "$2" test.xyz --rattled 0 --snapshots 20 --seed 1
        atomslim study "$here/$1/one-material.yaml" -o one-material
        if [ -n "${MPTRJ:-}" ]; then
            atomslim study "$here/$1/universal.yaml" -o universal
        fi
    )
}

study sevennet sevennet:7net-0
study chgnet chgnet:0.3.0
