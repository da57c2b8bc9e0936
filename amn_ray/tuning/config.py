"""The configuration of a study: that of a pipeline, and the settings to vary."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from amn_ray.recipe.config import PipelineConfig
from amn_ray.tuning.study import StudyConfig


@dataclass(kw_only=True)
class SweepConfig(PipelineConfig):
    """Options of `jobs/sweep.py`: a study, and the settings that its pipelines share."""

    study: StudyConfig = field(default_factory=StudyConfig)
    seeds: list[int] = field(default_factory=lambda: [0])
    """Each trial is repeated with each seed."""
    retry_failed: bool = False
    """Retry trials that failed last time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds}: must be one or more distinct numbers")
        if self.study.search != "grid" and len(self.seeds) > 1:
            raise ValueError(
                f"seeds={self.seeds}: search={self.study.search} compares samples of one seed; "
                "repeat its best settings with study=repeats"
            )
        if self.study.asha is not None and self.study.asha.grace > self.amn.epochs:
            raise ValueError(
                f"study.asha.grace={self.study.asha.grace}: must not be above amn.epochs={self.amn.epochs}"
            )

    def pipeline(self) -> PipelineConfig:
        """The pipeline without the study."""
        return PipelineConfig(**{item.name: getattr(self, item.name) for item in dataclasses.fields(PipelineConfig)})
