"""The YAML of all jobs; it is installed as `amn_ray.conf`."""
