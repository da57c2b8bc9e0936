"""Studies: pipelines that differ in a few settings, run by Ray Tune, which share their common work."""
