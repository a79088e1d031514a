"""The Python API: pack folders, run comparisons, read runs. The command line stands on it.

Nothing here imports Ray before something has to be computed on it, so that a finished run is read in a moment.
"""
