"""Does the colour-drift network make the images better? Two variants, the verdict and a page.

    python examples/drift.py [PRESET] [SEEDS] [FOLDER]    default: quick 0-2 results/drift

At `quick` a run takes 5 to 25 minutes on 2 CPU cores. You may interrupt it: the same command
continues. Three seeds cannot decide anything (the smallest p-value is 0.25), so the verdict will be
"undecided", with the number of seeds that a decision would take.
"""

import sys
from pathlib import Path

import ablate

preset, seeds, folder = [*sys.argv[1:], *("quick", "0-2", "results/drift")[len(sys.argv) - 1 :]]

results = ablate.run(variant=["baseline", "no_drift"], seeds=seeds, preset=preset, results=folder)

# The tables are data frames. `fd_floor` is the distance of real images to real images.
print(results.runs[["variant", "seed", "fd", "fd_floor", "pd", "train_wall_s"]].to_string(index=False))

# Paired differences, their intervals and p-values: the figures of `ablate report`.
verdicts = results.verdicts()
print(verdicts[["label", "metric", "mean", "low", "high", "adjusted", "verdict"]].to_string(index=False))
for one in results.findings().comparisons:
    print(f"{one.label} by {one.metric}: {one.verdict} ({one.why}); seeds needed: {one.seeds_needed or 'unknown'}")

page = results.to_html(Path(folder) / "report.html", force=True)
print(f"page: {page}")
