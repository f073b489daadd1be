"""What a process costs, as Linux counts it."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Meter:
    """Reads the counters of one running process from /proc."""

    pid: int

    def cpu_seconds(self) -> float:
        """Return what it has used, in user and system mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_rss_mb(self) -> float:
        """Return the most memory it ever had, in units of 10^6 bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        return int(kilobytes) * 1024 / 1e6
