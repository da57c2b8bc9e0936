"""One folder per stage, with the same file names in each; stages never import one another.

stage.py   run(config, inputs, output, context) -> result, the Stage values, and the Method: the public part
config.py  settings and their ranges
model.py   the mathematics, without Ray; loss.py what is minimised, which inference does not need
example.py one training example, as the loading tasks make it
train.py   train_worker: the algorithm on one page; its only use of Ray is the loop
infer.py   the class that Ray Data maps over batches
NAME.yaml  the settings of the method, also for certain data sets or recipes

Shared by stages: stage.py (Stage, Context), groups.py (settings of all choices of a group), methods.py (the registry),
builtin.py (one line per method), reading.py (for images and truth).
"""
