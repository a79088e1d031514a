"""Where data lies: S3-compatible stores and folders to write to, any fsspec address to read from."""

from raybench.store.store import Store, open_store

__all__ = ["Store", "open_store"]
