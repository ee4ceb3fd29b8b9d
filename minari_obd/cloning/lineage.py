"""Lineage: what a policy was made from, as far as it may be published."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from minari_obd.distilled.dataset import DistilledDataset
from minari_obd.settings.parsing import STRICT_JSON
from minari_obd.sources.data import OfflineData

__all__ = ["ClonedFrom", "Lineage"]

_PUBLIC = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}|shelf/[\w.-]+")
"""Origins that say nothing of a user's machine."""


@dataclass(frozen=True)
class ClonedFrom:
    """Pairs, or a whole offline dataset, that students were cloned from."""

    source: str
    """Id of the offline dataset."""
    size: int
    """Number of (observation, action) pairs."""
    method: str | None = None
    """How the pairs were made; None for the whole dataset."""
    sha256: str | None = None
    """Of the pairs, see :attr:`Contents.content_sha256`; None for a whole dataset."""
    origin: str | None = None
    """Where the pairs are: ``organisation/name@commit``, or ``shelf/NAME``; None if they are on the user's machine."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT_JSON

    @classmethod
    def of(cls, pairs: DistilledDataset | OfflineData) -> "ClonedFrom":
        """Name what is cloned from."""
        if isinstance(pairs, OfflineData):
            return cls(pairs.dataset_id, len(pairs))
        origin = pairs.origin if _PUBLIC.fullmatch(pairs.origin or "") else None
        return cls(pairs.provenance.source, len(pairs), pairs.provenance.method, pairs.content_sha256, origin)


@dataclass(frozen=True)
class Lineage:
    """What a policy was made from."""

    pairs: tuple[ClonedFrom, ...] = ()
    """What it was cloned from, in order."""
    seed: int | None = None
    """Seed of the last cloning."""
    environment_steps: int = 0
    """Steps of online fine-tuning since then."""
    license: str | None = None
    """The Hub's id of the pairs' licence, if all have the same one."""
    is_imitation: bool = False
    """Whether the policy imitates the infinitely wide student that was cloned from the pairs."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT_JSON

    def cloned(self, sets: Sequence[DistilledDataset | OfflineData], seed: int) -> "Lineage":
        """Return the lineage of a policy that goes on from this one with these sets."""
        licences = {getattr(each, "license", None) for each in sets} | ({self.license} if self.pairs else set())
        license = licences.pop() if len(licences) == 1 else None
        return Lineage((*self.pairs, *map(ClonedFrom.of, sets)), seed, license=license)

    @property
    def sources(self) -> tuple[str, ...]:
        """Ids of the offline datasets, each once."""
        return tuple(dict.fromkeys(each.source for each in self.pairs))
