"""Object stores: S3-compatible servers and folders to read and write, any fsspec address to read."""

from raybench.store.store import Store, digest, open_store

__all__ = ["Store", "digest", "open_store"]
