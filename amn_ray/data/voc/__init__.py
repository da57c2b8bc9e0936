"""PASCAL VOC 2012, and anything in its layout: the source, and its lists, annotations and class names."""

from amn_ray.data.voc.source import CLASSES, Voc, VocConfig

__all__ = ["CLASSES", "Voc", "VocConfig"]
