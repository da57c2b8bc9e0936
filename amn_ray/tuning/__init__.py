"""Studies: pipelines that differ in a few settings and share their common work, run by Ray Tune."""
