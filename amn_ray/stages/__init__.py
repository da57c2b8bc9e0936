"""One folder per stage, with the same file names in each; stages never import one another.

stage.py   run(config, inputs, output, cluster) -> result: the door, all that pipeline.py imports
config.py  its settings and their ranges
model.py   the mathematics, without Ray
example.py one training example, as the loading tasks make it
train.py   train_worker: the algorithm on one page, without Ray but for the loop that it runs in
infer.py   the class that Ray Data maps over batches
"""
