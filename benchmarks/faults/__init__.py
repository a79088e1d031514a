"""Faults that are injected for real: into processes, nodes, disks and the store's connections."""
