"""Does raybench work on this machine? From images to the report: `FOLDER/bin/python cluster/smoke.py`.

For a machine without internet, after install.sh. A generated line, an S3 server and a Ray of its own, all on loopback;
two detectors that need no training loop, one of them on the packaged ImageNet weights and written as ONNX. Exit code 0
when all of it works, else that of the first command that does not; nothing is left behind.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raybench.cli.demo import Sizes, write_strips
from raybench.store import open_store
from raybench.store.server import embedded_server

RAYBENCH = Path(sys.executable).with_name("raybench")
SIZES = Sizes(train_ok=24, test_ok=6, test_ng=6, unlabelled=0)
STORE = "s3://smoke/bench"
EXPERIMENT = f"""
name: smoke
store: {STORE}
lines: [strip]
models: [padim, dfm]
preset: cpu
false_alarm_budget: 0.2
input: {{pixels: 16384}}
squashed_twins: false
resources: {{measure_s: 0.5}}
"""


def main() -> None:
    """Run each command as a user would, in a folder of its own."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="raybench-") as folder, embedded_server(Path(folder, "server")):
        open_store(STORE).create()
        write_strips(Path(folder, "strip"), SIZES)
        Path(folder, "smoke.yaml").write_text(EXPERIMENT)
        raybench(folder, "pack", "strip", "--line", "strip", "--to", STORE)
        raybench(folder, "run", "smoke.yaml")
        raybench(folder, "verify", "smoke.yaml")
        raybench(folder, "export", "smoke.yaml", "--line", "strip", "--model", "padim")
    print(f"raybench works on this machine; that took {time.perf_counter() - started:.0f} s")


def raybench(folder: str, *arguments: str) -> None:
    """Exits with the command's code where that is not 0."""
    print(f"+ raybench {' '.join(arguments)}", flush=True)
    ended = subprocess.run([str(RAYBENCH), *arguments], cwd=folder, check=False)
    if ended.returncode:
        print(f"error: raybench {arguments[0]} failed, see above", file=sys.stderr)
        sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
