"""Survived faults out of injected ones: a seeded random schedule against real runs, each compared with a quiet one.

python -m benchmarks.chaos [--faults 60] [--seed 0] [--minutes 40]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from benchmarks.faults.compare import Findings, findings_of, wrong_commits
from benchmarks.faults.world import World, wait_for, world
from raybench.cli.demo import Sizes, write_strips
from raybench.config.experiment import Annotation, Experiment, InputChoice, ModelChoice, Resources, Storage
from raybench.config.plan import Plan, make_plan
from raybench.data.inspection.inspection import inspection_key
from raybench.data.pack import PackOptions, pack
from raybench.store import open_store
from tests.support import plugins

BUCKET = "chaos"
INSPECTION = f"lines/{inspection_key('strip')}"
PER_ROUND = 6
BETWEEN_S = (1.0, 4.0)
ROUND_S = 900.0
STARTS = 25
OK, STOPPED = 0, 3
Inject = Callable[[], bool]


@dataclass
class Round:
    """One run under fire. wrong: what it lost, repeated or found otherwise; empty when it survived."""

    injected: list[str] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    commits: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


@dataclass
class Ground:
    """Where rounds take place: the world, the experiment, the quiet run's findings. once: kinds of faults that are
    injected, each once; all kinds again and again where it is empty. between_s: least and greatest pause after a
    fault."""

    world: World
    base: Experiment
    quiet: Findings
    once: frozenset[str] = frozenset()
    between_s: tuple[float, float] = BETWEEN_S

    def plan(self, name: str) -> Plan:
        """Rounds are planned past the proxy."""
        direct = Storage(endpoint_url=self.world.server.endpoint_url)
        return make_plan(self.base.model_copy(update={"name": name, "storage": direct}))


def faults(ground: Ground, rng: random.Random) -> dict[str, Inject]:
    """By name: what injects it, and tells whether it could."""
    at, proxy = ground.world, ground.world.proxy

    def requests(fault: str) -> Inject:
        def inject() -> bool:
            before = proxy.met
            proxy.inject(fault, rng.randint(2, 12))  # type: ignore[arg-type]
            wait_for(lambda: proxy.pending == 0, 20.0)
            return proxy.met > before

        return inject

    found: dict[str, Inject] = {
        "kill -9 of a worker in inspect": lambda: at.kill_worker("inspect"),
        "kill -9 of a worker in train": lambda: at.kill_worker("train"),
        "kill -9 of a worker in score": lambda: at.kill_worker("score"),
        "kill -9 of a worker in measure": lambda: at.kill_worker("measure"),
        "kill -9 of the aggregator": lambda: at.kill_worker("Aggregator"),
        "loss of a node": lambda: bool(at.processes("train") or at.processes("score")) and at.replace_node(),
        "kill -9 of the driver": lambda: _signal_driver(at, signal.SIGKILL),
        "SIGTERM to the driver": lambda: _signal_driver(at, signal.SIGTERM),
        "kill -9 of the S3 server": lambda: at.restart_server(rng.uniform(0.0, 4.0)),
        "storm of 503 answers": requests("busy"),
        "connections reset": requests("reset"),
        "answers lost after the work is done": requests("answer lost"),
        "stalled connections": requests("stall"),
        "truncated bodies": requests("truncated"),
        "a second driver at once": lambda: False,
    }
    if not at.no_tmpfs:
        found["disk full in the cache"] = lambda: at.fill_disk(rng.uniform(1.0, 4.0))
    return found


def _signal_driver(at: World, number: signal.Signals) -> bool:
    driver = at.drivers[-1]
    alive = sum(one.poll() is None for one in at.drivers)
    if driver.poll() is not None or len(at.processes("Aggregator")) < alive:  # not all have got so far
        return False
    os.kill(driver.pid, number)
    code = driver.wait()
    if number == signal.SIGTERM and code not in (STOPPED, OK):
        raise RuntimeError(f"SIGTERM ended the driver with {code}, not {STOPPED}")
    return True


def fight(ground: Ground, name: str, rng: random.Random, counts: Counter[str], most: int) -> Round:
    """Run the experiment under up to `most` faults until a driver says it is done, then look for damage."""
    at, done = ground.world, Round()
    experiment = ground.base.model_copy(update={"name": name})
    inject = faults(ground, rng)
    inject["a second driver at once"] = lambda: bool(at.processes("Aggregator")) and bool(at.start(experiment))
    store = ground.plan(name).store
    for item in (*store.list("units/"), *store.list(INSPECTION)):  # each round is to make them
        store.delete(item.key)
    at.proxy.commits.clear()
    started, before = time.monotonic(), len(at.drivers)
    at.start(experiment)
    pause_until = time.monotonic() + rng.uniform(*ground.between_s)
    while time.monotonic() < started + ROUND_S and len(at.drivers) - before < STARTS:
        exits = [driver.poll() for driver in at.drivers[before:]]
        if None not in exits:
            if OK in exits:
                break
            at.start(experiment)
        elif len(done.injected) < most and time.monotonic() > pause_until and at.processes("Aggregator"):
            _one(_wanted(inject, ground.once, counts), rng, counts, done)
            pause_until = time.monotonic() + rng.uniform(*ground.between_s)
        time.sleep(0.1)
    at.end_drivers()
    done.exits = [driver.returncode for driver in at.drivers[before:]]
    done.seconds = time.monotonic() - started
    if OK not in done.exits:
        done.wrong.append(f"did not finish: exit codes {done.exits}; its log ends: {at.log(experiment)[-1500:]}")
    else:
        _judge(ground, name, done)
    return done


def _wanted(inject: dict[str, Inject], once: Collection[str], counts: Counter[str]) -> dict[str, Inject]:
    return {kind: work for kind, work in inject.items() if not once or (kind in once and not counts[kind])}


def _one(inject: dict[str, Inject], rng: random.Random, counts: Counter[str], done: Round) -> None:
    """Inject one fault: of those met least so far, the first that is possible now."""
    kinds = sorted(inject, key=lambda kind: (counts[kind], rng.random()))
    for kind in kinds:
        if inject[kind]():
            counts[kind] += 1
            done.injected.append(kind)
            return


def _judge(ground: Ground, name: str, done: Round) -> None:
    plan = ground.plan(name)
    found = findings_of(plan)
    for part in ("board", "flags", "results"):
        if getattr(found, part) != getattr(ground.quiet, part):
            done.wrong.append(f"{part} is not that of the quiet run")
    if plan.experiment.inspect and not plan.store.exists(INSPECTION):
        done.wrong.append("the line is not inspected")
    proxy = ground.world.proxy
    done.wrong += wrong_commits(proxy.commits, plan.store, BUCKET)
    done.commits = sum("/units/" in path for path in proxy.commits)


def prepare(at: World, measure_s: float = 2.0, signals: int = 50, inspect: bool = True) -> Ground:
    """Pack a line, and run the experiment once in peace. measure_s, signals, inspect: keys of the experiment."""
    store = open_store(f"s3://{BUCKET}")
    store.create()
    images = write_strips(at.folder / "images", Sizes(24, 6, 6, 0))
    pack(open_store(str(images)), store.sub("lines"), "strip", PackOptions(shard_rows=6))
    models = tuple(
        ModelChoice(name="fake", label=f"grid-{grid}", config={"grid": grid, "sleep_s": 0.15}) for grid in (8, 16, 32)
    )
    base = Experiment(
        name="quiet",
        store=store.uri(),
        lines=("strip",),
        models=models,
        false_alarm_budget=0.2,
        input=InputChoice(pixels=64 * 64),
        squashed_twins=False,
        inspect=inspect,
        annotation=Annotation(signals=signals),
        resources=Resources(retries=10, unit_timeout_s=600.0, measure_s=measure_s),
        storage=Storage(endpoint_url=at.proxy.url),
    )
    if (code := at.start(base).wait()) == STOPPED:  # by somebody else: on a shared machine that happens
        code = at.start(base).wait()
    if code != OK:
        raise RuntimeError(f"the quiet run ended with {code}: {at.log(base)}")
    ground = Ground(at, base, Findings(b"", b"", {}))
    return replace(ground, quiet=findings_of(ground.plan("quiet")))


def chaos(
    ground: Ground, wanted: int, seed: int, until: float, say: Callable[[str], None]
) -> tuple[Counter[str], list[Round]]:
    """Rounds until `wanted` faults are injected or the monotonic clock shows `until`."""
    rng, counts = random.Random(seed), Counter[str]()  # noqa: S311
    rounds: list[Round] = []
    say(f"quiet run: {len(ground.quiet.results)} units")
    while counts.total() < wanted and time.monotonic() < until:
        name = f"round-{len(rounds)}"
        done = fight(ground, name, rng, counts, min(PER_ROUND, wanted - counts.total()))
        rounds.append(done)
        verdict = "; ".join(done.wrong) or "same findings, nothing lost, nothing repeated"
        say(f"{name}: {done.seconds:.0f} s, driver exits {done.exits}, {done.commits} commits, {verdict}")
        for kind in done.injected:
            say(f"    {kind}")
    return counts, rounds


def summary(rounds: list[Round]) -> list[str]:
    """Survived / injected, per kind and in all."""
    injected = Counter(kind for done in rounds for kind in done.injected)
    survived = Counter(kind for done in rounds if not done.wrong for kind in done.injected)
    width = max(map(len, injected), default=0)
    lines = [f"{kind:<{width}}  {survived[kind]:>3} / {injected[kind]}" for kind in sorted(injected)]
    lost = sum(bool(done.wrong) for done in rounds)
    commits = sum(done.commits for done in rounds)
    lines.append(f"{survived.total()} of {injected.total()} faults of {len(injected)} kinds survived")
    return [*lines, f"{len(rounds)} runs, {commits} commits, {lost} runs with anything lost, repeated or different"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=40.0)
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing started here stays
    print(f"seed {chosen.seed}", flush=True)
    plugins.install()
    with world() as at:
        if at.no_tmpfs:
            print(f"no full disk here: {at.no_tmpfs}")
        until = time.monotonic() + 60 * chosen.minutes
        _, rounds = chaos(prepare(at), chosen.faults, chosen.seed, until, lambda text: print(text, flush=True))
    print("\n".join(summary(rounds)))
    sys.exit(any(done.wrong for done in rounds))


if __name__ == "__main__":
    main()
