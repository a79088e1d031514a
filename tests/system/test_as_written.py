"""The commands of docs/cluster.md, typed as they stand there: token auth, the jobs API, a real model.

In a network, process tree and home of its own, as on a new machine: so its ports are Ray's usual ones, whatever else
runs here, and nothing outlives the test.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from raybench.cli.demo import Sizes, write_strips
from tests.support.checkout import check_out
from tests.support.head import BIN, ROOT, submission_id

ALONE = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--map-root-user")
INHERITED = ("AWS_", "RAY_", "PYTHON", "RAYBENCH_")
END = "[exit code]"
LAST_WORD_OF_THE_STORE = "raybench pack"


class Terminal:
    """A shell that somebody types into."""

    def __init__(self, shell: subprocess.Popen[str]) -> None:
        assert shell.stdin
        assert shell.stdout
        self.keys, self.screen = shell.stdin, shell.stdout

    def type(self, line: str) -> str:
        """What the command prints. Raises AssertionError when it fails."""
        print(line, f"echo '{END}' $?", sep="\n", file=self.keys, flush=True)
        said = self.read(END)
        assert said[-1] == f"{END} 0\n", "".join([line, "\n", *said])
        return "".join(said[:-1])

    def read(self, until: str) -> list[str]:
        """Lines of the screen, up to the first with that text in it."""
        said: list[str] = []
        for line in self.screen:
            said.append(line)
            if until in line:
                return said
        raise EOFError("".join(said))


@contextlib.contextmanager
def new_machine(folder: Path) -> Iterator[Terminal]:
    """A terminal in `folder` of a machine that has loopback and nothing else."""
    if subprocess.run([*ALONE, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel gives us no network of our own, or `ip` is not installed")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(INHERITED)}
    with tempfile.TemporaryDirectory(prefix="rb", ignore_cleanup_errors=True) as home:  # short: Ray puts sockets there
        environment = kept | {"HOME": home, "RAY_TMPDIR": home, "PATH": f"{BIN}:{os.environ['PATH']}"}
        with subprocess.Popen(
            [*ALONE, "bash", "-o", "pipefail"],
            cwd=folder, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as shell:  # fmt: skip
            try:
                terminal = Terminal(shell)
                terminal.type("ip link set lo up")
                yield terminal
            finally:
                shell.kill()


def make_small(experiment: Path) -> None:
    """The quickest model alone: what is tried here is the way there."""
    settings = yaml.safe_load(experiment.read_text()) | {"models": ["dfm"], "squashed_twins": False}
    experiment.write_text(yaml.safe_dump(settings))


def commands() -> list[str]:
    """The rows of the page's first block."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    return page.partition("```sh\n")[2].partition("```")[0].strip().splitlines()


@pytest.mark.long  # test_submit.py has a job, and test_commands.py checks the page's commands
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_the_cluster_page_runs_as_written(tmp_path: Path) -> None:
    checkout = check_out(tmp_path / "checkout")
    write_strips(checkout / "photos" / "bottle", Sizes(24, 6, 6, 0))
    make_small(checkout / "jobs" / "one_line.yaml")
    said: dict[str, str] = {}
    with new_machine(checkout) as terminal:
        for line in commands():
            job = submission_id(said["ray job submit"]) if re.search(r"\bJOB\b", line.partition("#")[0]) else ""
            said[" ".join(re.findall(r"^ray job \w+|^\w+ \w+", line))] = terminal.type(line.replace(" JOB", f" {job}"))
            if line.startswith("raybench store"):
                for told in terminal.read(LAST_WORD_OF_THE_STORE):
                    if told.strip().startswith("export "):
                        terminal.type(told.strip())
    assert "bottle: test/ng 6, test/ok 6, train/ok 24" in said["raybench pack"]
    assert "succeeded" in said["ray job submit"]
    assert "1 units: 1 done now, 0 done before, 0 failed" in said["ray job submit"]
    assert "report: out/one-line/report/index.html" in said["raybench report"]
    assert (checkout / "out" / "one-line" / "report" / "index.html").is_file()
    assert "succeeded" in said["ray job stop"]
