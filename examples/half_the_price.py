"""Make my model half the price: score its blocks, cut, re-align, distil, and see what that cost.

    python examples/half_the_price.py model.safetensors oc20=xyz:frames.xyz -o half/ --blocks 3 --budget 10min

Cells between `# %%` marks run one by one in editors that know them. Without arguments, nothing is assumed: name a model
and labelled data for one or more of its tasks.
"""

# %% What to work on
import argparse
from pathlib import Path

import atomslim
from atomslim.cli.settings import tasked

parser = argparse.ArgumentParser(description="Make a model half the price.")
parser.add_argument("model", type=Path)
parser.add_argument("data", nargs="+", help="TASK=DATASET, or DATASET for the only task")
parser.add_argument("-o", "--output", type=Path, default=Path("half"))
parser.add_argument("--blocks", type=int, help="blocks to keep; default: half of them")
parser.add_argument("--budget", default="10min", help="wall clock of distillation")
parser.add_argument("--limit", type=int, default=128, help="structures of each task for scores and comparison")
options = parser.parse_args()
data = tasked(options.data)
full = atomslim.load(options.model)
blocks = options.blocks or full.num_blocks // 2

# %% Which blocks matter? The paper cuts from the end; see whether the scores agree
scores = atomslim.block_relevance(full, data, limit=options.limit)
scores.write(options.output / "relevance")
for sentence in scores.words():
    print(sentence)

# %% Cut, and let the readout make up for what is missing: no training, a minute on a CPU
sliced = atomslim.keep_blocks(full, blocks)
fitted = atomslim.keep_blocks(full, blocks, realign="least-squares", calibration=data, limit=options.limit)
print(fitted.history[-1]["fit"])

# %% Let the cut model learn from the full one; labels are not needed
distilled = atomslim.distill(
    fitted, full, data, output=options.output / "run", budget=options.budget, validate_against="teacher"
)
atomslim.save(distilled, options.output / "distilled.safetensors")

# %% What did it cost, what did it gain?
models = {"full": full, "sliced": sliced, "least-squares": fitted, "distilled": distilled}
report = atomslim.compare(models, data, limit=options.limit)
report.write(options.output / "compare")
for sentence in report.words():
    print(sentence)
print(options.output / "compare" / "compare.html")
