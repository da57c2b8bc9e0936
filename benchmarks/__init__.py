"""Measures the speed claims in the README: `make bench`, with nothing else running.

Every claim is a ratio of two medians, taken in turn in one run: of our code, and of the released code's plain way.
"""
