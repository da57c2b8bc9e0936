"""What the images stage is asked for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amn_ray.data.source import DatasetConfig, Listing, Source


@dataclass(frozen=True)
class SplitRequest:
    """One split of a source, listed and checked but not yet read."""

    source: Source
    config: DatasetConfig
    split: str
    listing: Listing

    @classmethod
    def of(cls, source: Source, config: DatasetConfig, split: str) -> SplitRequest:
        """List a split.

        Raises:
            RequestError: see Source.listing.
        """
        return cls(source, config, split, source.listing(split))

    def identity(self) -> dict[str, Any]:
        """What decides the table's content: settings, names, labels and the sizes of all files, but not their place."""
        settings = {key: value for key, value in asdict(self.config).items() if key != "root"}
        entries = [
            (record.image_id, record.labels, _size(record.image), _size(record.mask)) for record in self.listing.records
        ]
        digest = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
        return settings | {"split": self.split, "classes": self.source.classes, "records": digest}


def _size(path: str | None) -> int | None:
    return Path(path).stat().st_size if path else None
