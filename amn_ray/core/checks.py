"""Range checks for configuration dataclasses. Each error is one sentence that begins with the key.

`recipe.composition.load` puts the node's path in front (`maps.`, `amn_refined.`), so users see the key that they typed.
None is not checked.
"""

from __future__ import annotations

from collections.abc import Sequence


def check_positive(config: object, *names: str) -> None:
    """Reject values that are not greater than 0."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value}: must be greater than 0")


def check_not_negative(config: object, *names: str) -> None:
    """Reject values below 0."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 0:
            raise ValueError(f"{name}={value}: must not be negative")


def check_fraction(config: object, *names: str) -> None:
    """Reject values outside [0, 1]."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: must be in [0, 1]")


def check_choice(config: object, name: str, choices: Sequence[str]) -> None:
    """Reject a value, or an element of a list, that is not one of `choices`."""
    value = getattr(config, name)
    for item in value if isinstance(value, list) else [value]:
        if item is not None and item not in choices:
            raise ValueError(f"{name}={value}: {item!r} must be one of {', '.join(choices)}")


def check_scales(config: object) -> None:
    """Reject an empty list of scales, or scales that are not positive."""
    scales = getattr(config, "scales")  # noqa: B009
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales={scales}: must be a list of factors greater than 0")


def check_pixel_range(config: object, name: str) -> None:
    """Reject a pair that is not [shortest, longest] of lengths in pixels."""
    value = getattr(config, name)
    if len(value) != 2 or not 1 <= value[0] <= value[1]:
        raise ValueError(f"{name}={value}: must be [shortest, longest] in pixels")


def check_range(config: object, name: str) -> None:
    """Reject a pair that is not [lowest, highest] of positive numbers."""
    value = getattr(config, name)
    if len(value) != 2 or not 0 < value[0] <= value[1]:
        raise ValueError(f"{name}={value}: must be [smallest, largest], greater than 0")
