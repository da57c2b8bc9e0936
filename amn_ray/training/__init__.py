"""The pair around Ray Train: a feed and a driver outside, a loop inside each worker."""
