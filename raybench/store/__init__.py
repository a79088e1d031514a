"""Object stores: S3-compatible servers and folders to read and write, any fsspec address to read."""

from raybench.store.store import Store, open_store

__all__ = ["Store", "open_store"]
