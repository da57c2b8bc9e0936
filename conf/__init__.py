"""The YAML of all jobs: `amn_ray.conf` where the package is installed."""
