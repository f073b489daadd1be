"""What a process costs, as Linux counts it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Usage:
    """What a process uses.

    Attributes:
        parent: the id of the process that started it.
        cpu_seconds: in user and system mode, since it began.
        rss_mb: memory at this moment, in units of 10^6 bytes.
    """

    parent: int
    cpu_seconds: float
    rss_mb: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """Read the counters of a running process.

        Raises:
            FileNotFoundError, ProcessLookupError: it has ended.
        """
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        cpu_seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return cls(int(fields[1]), cpu_seconds, int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6)


@dataclass(frozen=True)
class Meter:
    """Reads the counters of one running process from /proc."""

    pid: int

    def cpu_seconds(self) -> float:
        """Return what it has used, in user and system mode."""
        return Usage.of(self.pid).cpu_seconds

    def peak_rss_mb(self) -> float:
        """Return the most memory it ever had, in units of 10^6 bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        return int(kilobytes) * 1024 / 1e6
