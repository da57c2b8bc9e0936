"""COCO 2014, and anything in its layout: the source, its files of instances, and how outlines are painted."""

from amn_ray.data.coco.source import Coco, CocoConfig

__all__ = ["Coco", "CocoConfig"]
