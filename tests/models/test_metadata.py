"""What a checkpoint in a package's own format keeps of the model that it was written from."""

import pytest

from atomslim.compress.prune import keep_blocks
from atomslim.errors import CheckpointError
from atomslim.models.metadata import Metadata, restore
from small_models import CONSERVATIVE, DIRECT, jmp


def test_a_models_own_entry_comes_back() -> None:
    cut, bare = keep_blocks(jmp(DIRECT, num_blocks=3), [1, 3]), jmp(DIRECT, num_blocks=2)
    restore(bare, Metadata.of(cut), "m.pt")
    assert bare.block_ids == (1, 3)
    assert bare.tasks == cut.tasks
    assert bare.history[: len(cut.history)] == cut.history


def test_an_entry_of_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"^m\.pt: its entry 'atomslim' is about another model; remove the entry"):
        restore(jmp(DIRECT, num_blocks=1), Metadata.of(jmp(DIRECT, num_blocks=2)), "m.pt")
    with pytest.raises(CheckpointError, match=r"^m\.pt: its entry 'atomslim' is about another model: "):
        restore(jmp(DIRECT, num_blocks=1), Metadata.of(jmp(DIRECT, CONSERVATIVE, num_blocks=1)), "m.pt")
