"""Datasets: readers, our container, splits, normalisation, downloads; knows structures, but not models."""

from atomslim.data.dataset import Dataset, open_dataset
from atomslim.data.info import DatasetInfo, Variant

__all__ = ["Dataset", "DatasetInfo", "Variant", "open_dataset"]
