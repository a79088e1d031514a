"""`python -m benchmarks`: every claim about speed and memory, measured beside its peer in one run."""

from __future__ import annotations

import platform

from benchmarks import coreset, heap, memory, metrics, packing


def main() -> None:
    print(f"{platform.platform()}, Python {platform.python_version()}")
    for part in (packing, metrics, coreset, heap, memory):
        print(f"\n{part.__doc__}".rstrip())
        part.main()


if __name__ == "__main__":
    main()
