"""Who may do what, what bad inputs do, and whether tampering shows: one line of JSON, last.

Run from the repository's root: `python benchmarks/trust/run.py [--quick]`. Databases lie in memory where there is a
`/dev/shm`, so that the disk of the machine does not matter.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the campaign is shared with the tests

from tests.trust import campaign

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


def main() -> None:
    """Run the campaign and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the trials")
    share = 20 if parser.parse_args().quick else 1
    campaign.quiet()
    place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        figures = campaign.authorisation(folder / "authorisation")
        print("authorisation", figures, flush=True)
        figures |= campaign.bad_inputs(folder / "bad", 20_000 // share)
        print("bad inputs", figures, flush=True)
        drawn, complaints = campaign.contract_keeping(folder / "contract", 100 // min(share, 20))
        figures |= {name: figures[name] + number for name, number in drawn.items()}
        print("live document", drawn, f"{len(complaints)} answers break it", *complaints[:10], flush=True)
        figures |= campaign.tampering(folder / "tampering", 200 // min(share, 4))
        figures |= campaign.replaying(folder / "replays", 40 // min(share, 4))
    print(json.dumps(figures))
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
