"""Sources of labelled images and what is done to pixels before a network sees them. Knows nothing of stages or Ray.

A source lists records (source.py says what it offers) and reads the image and the mask of one:

    voc/ coco/ folder/ shapes.py      the sources; listing.py opens them, digests.py knows what their files hold
    records.py apart.py               the records of a split in a file, for workers; reading what may end a process
    masks/                            ground truth that others made: which file is whose, what its pixels mean
    named_files.py class_names.py text.py palette.py     how people write names of files and classes, text, colours
    images.py pixels.py               image files -> RGB, and the settings by which; our own masks
    photograph_checks.py label_checks.py                 what all images of a set tell together, before hours are spent
    transforms.py                     augmentation
"""
