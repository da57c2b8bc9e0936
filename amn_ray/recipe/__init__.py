"""The pipeline: which steps there are, in which order, with which settings; and the records of its runs."""
