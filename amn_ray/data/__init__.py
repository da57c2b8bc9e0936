"""Sources of labelled images, and the transforms of their pixels. Imports neither stages nor Ray.

A source lists records (source.py says what it offers) and reads the image and the mask of one:

    voc/ coco/ folder/ shapes.py      the sources; listing.py opens them, digests.py knows what their files hold
    records.py in_subprocess.py        the records of a split in a file, for workers; files that may kill a process
    masks/                            masks of other tools: which image a file belongs to, what its pixels mean
    named_files.py class_names.py text.py palette.py     how people write names of files and classes, text, colours
    images.py pixels.py               image files -> RGB, and the settings for that; our own masks
    photograph_checks.py label_checks.py                 checks of a whole set, before hours are spent
    transforms.py                     augmentation
"""
