"""Many questions of many videos, on one machine or a Ray cluster. `job` is where to begin."""
