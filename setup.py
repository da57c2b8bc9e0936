"""Where the packages are: `conf/` is installed as `amn_ray.conf`. All else is said in pyproject.toml."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["amn_ray", "amn_ray.*"]), "amn_ray.conf"], package_dir={"amn_ray.conf": "conf"})
