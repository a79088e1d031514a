"""`raybench run` as the entry point of a Ray job; it takes the same arguments.

ray job submit --runtime-env jobs/runtime_env.yaml --working-dir . -- python jobs/evaluate.py jobs/one_line.yaml
"""

from __future__ import annotations

import sys

from raybench.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    main()
