"""Sharded prediction in a process of its own, to be killed: predictor.py MODEL FOLDER STRUCTURES…."""

import sys

import torch

from atomslim.inference.shards import predict_shards

if __name__ == "__main__":
    torch.set_num_threads(1)
    model, folder, *structures = sys.argv[1:]
    predict_shards(model, structures, folder, shard_size=4, batch_size=30, resume=True, progress=False)
