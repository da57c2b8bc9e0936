"""The process that lists a data set for a driver: a configuration in, summaries or an error out; see listing.py."""

import pickle
import sys

from amn_ray.data.listing import list_here

sys.stdout.buffer.write(pickle.dumps(list_here(*pickle.load(sys.stdin.buffer))))
