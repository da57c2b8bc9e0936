"""The user's own images with a table of labels: the source, the table, and the class names in its cells."""

from amn_ray.data.folder.source import Folder, FolderConfig

__all__ = ["Folder", "FolderConfig"]
