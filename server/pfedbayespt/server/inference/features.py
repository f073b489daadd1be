"""Encoded images, kept for whoever asks about the same image again: encoding is what an answer costs.

Rules:
1. An entry is found by all that it depends on: the image's digest, how it was prepared, the backbone, where prompts
   act, and the precision. It does not depend on the version, so a new one finds what its predecessor left.
2. A tenant finds its own entries only: whether another one has asked about an image must not show in time.
3. Image data: in memory only, at most `max_bytes` in all, the least recently used go first, and gone when purged.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from pfedbayespt.model.config import BackboneConfig, InsertionConfig
from pfedbayespt.model.insertion import Context
from pfedbayespt.protocol import Digest
from pfedbayespt.protocol.predictions import Precision


@dataclass(frozen=True)
class FeatureKey:
    """What a context depends on, and whose it is."""

    tenant: str
    image: Digest
    backbone: BackboneConfig
    insertion: InsertionConfig
    mid_block: int
    grid_size: int
    precision: Precision


class FeatureCache:
    """Contexts by key; safe to use from several threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._contexts: OrderedDict[FeatureKey, Context] = OrderedDict()  # the least recently used first
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Memory that the entries take."""
        return self._num_bytes

    def get(self, key: FeatureKey) -> Context | None:
        """Return the entry, which is now the most recently used."""
        with self._lock:
            context = self._contexts.get(key)
            if context is not None:
                self._contexts.move_to_end(key)
            return context

    def put(self, key: FeatureKey, context: Context) -> None:
        """Keep the entry, unless it alone is too large, and let go of what there is no room for."""
        if context.num_bytes > self._max_bytes:
            return
        with self._lock:
            self._remove(key)
            self._contexts[key] = context
            self._num_bytes += context.num_bytes
            while self._num_bytes > self._max_bytes:
                self._remove(next(iter(self._contexts)))

    def purge(self, tenant: str | None) -> int:
        """Forget the tenant's images, or with None everybody's, and return how many bytes that were."""
        with self._lock:
            before = self._num_bytes
            for key in [key for key in self._contexts if tenant in {None, key.tenant}]:
                self._remove(key)
            return before - self._num_bytes

    def _remove(self, key: FeatureKey) -> None:
        context = self._contexts.pop(key, None)
        if context is not None:
            self._num_bytes -= context.num_bytes
