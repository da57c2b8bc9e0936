"""One folder per stage, with the same file names in each; stages never import one another.

stage.py   run(config, inputs, output, context) -> result, the Stage values, and the Method: all that others import
config.py  settings and their ranges
model.py   the mathematics, without Ray
example.py one training example, as the loading tasks make it
train.py   train_worker: the algorithm on one page; of Ray it only knows the loop that it runs in
infer.py   the class that Ray Data maps over batches
NAME.yaml  the settings of the method, also those for a data set or a recipe

What stages share: stage.py (Stage, Context), groups.py (settings of all choices of a group), methods.py (the registry),
ours.py (one line per method), reading.py (what images and truth share).
"""
