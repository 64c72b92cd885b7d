import os
import subprocess
import sys

import pytest

# 40 MB: above the size up to which glibc learns by itself to keep blocks
FAULTS = """
import resource, torch
from atomslim.memory import keep_freed_memory
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    def faults(setting: str) -> int:
        environment = os.environ | {"ATOMSLIM_KEEP_MEMORY": setting}
        run = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, check=True)
        return int(run.stdout)

    assert faults("1") < 0.1 * faults("0")
