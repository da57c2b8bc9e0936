"""Settings of maps and masks that other programs made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar

from amn_ray.core.checks import check_choice, check_fraction
from amn_ray.data.source import DatasetConfig
from amn_ray.stages.given.formats import FORMATS
from amn_ray.stages.groups import MapsConfig, PseudoMasksConfig, RefinementConfig


@dataclass(kw_only=True)
class GivenMapsConfig(MapsConfig):
    """Maps. `scales` belongs to whoever made them, and is not used."""

    files: str | None = None
    """The folder of the files, named after images."""
    format: str | None = None
    """irn, amn, psa, png or npz (see formats.py); null: the one that fits all files, if it is only one."""
    max_missing: float = 0.0
    """The share of images that may be without maps; they are left out of all that follows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self, "max_missing")
        if self.format is not None:
            check_choice(self, "format", FORMATS)

    @property
    def deviations(self) -> list[str]:
        """See MapsNetworkConfig; what others did is not known here, so the folder's name stands for it."""
        name = [PurePath(self.files).name] if self.files else []
        return name + [f"{self.images} images"] * self.images.isdecimal()


@dataclass(kw_only=True)
class GivenMasks:
    """Masks."""

    step: ClassVar[str]
    """The step that makes them."""

    files: str | None = None
    """The folder of the files, named after images."""
    mask_pattern: str | None = None
    """How masks are named, such as "{id}_mask.png"; null finds it."""
    mask_values: str | None = None
    """index, binary or colour, as dataset.mask_values; null looks at the masks."""
    palette: Any = None
    """The value or colour of each class, as dataset.palette."""
    max_missing: float = 0.0
    """The share of images that may be without a mask; they are left out of all that follows."""

    def __post_init__(self) -> None:
        check_fraction(self, "max_missing")
        self.palette = self.reading.palette

    @property
    def reading(self) -> DatasetConfig:
        """How the masks are read, as the settings of a data set.

        Raises:
            ValueError: the settings contradict each other.
        """
        return DatasetConfig(
            name=self.step, mask_pattern=self.mask_pattern, mask_values=self.mask_values, palette=self.palette
        )


@dataclass(kw_only=True)
class GivenSeedsConfig(GivenMasks, RefinementConfig):
    """Refined seeds; the thresholds belong to whoever made them, and are not used."""

    step: ClassVar[str] = "refined"

    def __post_init__(self) -> None:
        GivenMasks.__post_init__(self)
        RefinementConfig.__post_init__(self)


@dataclass(kw_only=True)
class GivenPseudoMasksConfig(GivenMasks, PseudoMasksConfig):
    """Masks to train on; the settings of the walk belong to whoever made them, and are not used."""

    step: ClassVar[str] = "pseudo_masks"

    def __post_init__(self) -> None:
        GivenMasks.__post_init__(self)
        PseudoMasksConfig.__post_init__(self)
