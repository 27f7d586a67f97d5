"""Copies the inputs that add most to a seed folder: keep.py CONTROL_FILE SEEDS COUNT.

The control file is that of libFuzzer's merge without counters: the names of all inputs, then among others a line
"FT number place..." for each input, with all places of the code that it reaches.
"""

import pathlib
import shutil
import sys

# A seed is read by people as well, and there are many.
LARGEST = 4096

control, seeds, count = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
lines = pathlib.Path(control).read_text().splitlines()
total = int(lines[0])
names = lines[2 : 2 + total]
covered, reached = set(), {}
for line in lines[2 + total :]:
    kind, number, *places = line.split()
    if kind != "FT":
        continue
    path = pathlib.Path(names[int(number)])
    if path.parent.samefile(seeds):
        covered.update(places)
    elif path.stat().st_size <= LARGEST:
        reached[path] = set(places)

for _ in range(count):
    best = max(reached, key=lambda path: len(reached[path] - covered), default=None)
    if best is None or not reached[best] - covered:
        break
    print(f"{best.name[:12]}: {best.stat().st_size} bytes, {len(reached[best] - covered)} more places")
    covered |= reached.pop(best)
    shutil.copy(best, seeds / f"found-{best.name[:12]}")
