"""Masks of other tools: which image a file belongs to, and what its pixels mean.

    files, warnings = find_masks(folder, image_names, config.mask_pattern)     # files.py: image name -> its mask
    rule, warnings = mask_rule(files.values(), config, names)                  # decision.py: once for a whole set
    mask_HW = read_mask(encoded, rule, record.labels)                          # rule.py: checked against it

A pixel's value is a label (`index`), black or white (`binary`: white is the image's one class) or a colour (`colour`:
VOC's, or `dataset.palette`). `dataset.mask_values` says which; without it the masks are read automatically if only one
reading fits. Labels are in the numbering of `names` (value in a mask -> class name): 0 is background and 255
undefined. pixels.py has what is in a mask file, colours.py the labels that colours stand for. (Masks that we wrote
ourselves are read by images.decode_mask.)
"""

from amn_ray.data.masks.decision import mask_rule
from amn_ray.data.masks.files import find_masks, masks_among
from amn_ray.data.masks.rule import MaskRule, read_mask

__all__ = ["MaskRule", "find_masks", "mask_rule", "masks_among", "read_mask"]
