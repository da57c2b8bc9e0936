"""Studies: many pipelines that differ in a few settings, under Ray Tune, with their common work done once."""
