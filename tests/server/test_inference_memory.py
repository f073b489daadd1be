"""Memory that large images took is given back, also by the threads that answer; seen in a process of its own."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

_MEASURE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pfedbayespt.model.images import read_image
from pfedbayespt.server.inference import return_large_blocks

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

return_large_blocks()
opaque, transparent = (Path(name).read_bytes() for name in sys.argv[1:])
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
with ThreadPoolExecutor(2) as pool:
    for content in [opaque, transparent] * 3:
        pool.submit(read_image, content).result()
print(kilobytes("VmHWM") - before, kilobytes("VmRSS") - before)
"""


def test_one_large_image_after_the_other_costs_no_more_than_one(tmp_path: Path) -> None:
    for mode in ("L", "RGBA"):
        Image.new(mode, (5_000, 5_000)).save(tmp_path / mode, "PNG", compress_level=1)
    command = [sys.executable, "-c", _MEASURE, str(tmp_path / "L"), str(tmp_path / "RGBA")]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    peak, left = (int(figure) for figure in output.split())
    assert peak < 200_000
    assert left < 20_000
