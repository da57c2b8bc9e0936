"""The user's own images beside a table: the source, its table, and the class names in the table's cells."""

from amn_ray.data.folder.source import Folder, FolderConfig

__all__ = ["Folder", "FolderConfig"]
