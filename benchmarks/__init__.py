"""What the speed claims in the README are measured with: `make bench`, with nothing else running.

Every claim is a ratio of two medians taken in turn in one run: ours, and the plain way that the released code goes.
"""
