"""`make bench`: Rowcast beside other servers on this machine, and against the bars that it sets itself.

Four parts. `compare`: every server is started by itself, asked once to see that its answers are right, warmed up and
measured by wrk; all of them in turn, several rounds, because a machine drifts. `slow`: a model of 50 ms a batch, and a
small one beside it. `scaling`: more models, features and rows. `idle`: what it costs when nobody asks. Printed are
medians over the rounds, and how many times as much Rowcast does, the median of the multiples within a round; all
figures are in build/bench/results.json.
"""

import argparse
import shutil
import sys

from benchmarks.serving import idle, machine, published, scaling, slow
from benchmarks.serving.compare import Comparison
from benchmarks.serving.kinds import KINDS
from benchmarks.serving.servers import SERVERS
from benchmarks.serving.show import markdown, show

PARTS = ("compare", "slow", "scaling", "idle")


def main() -> int:
    asked = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.splitlines()[0])
    asked.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--seconds", type=int, default=4, help="of each measurement, after one of warming up")
    asked.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    asked.add_argument("--connections", type=int, nargs="+", help="instead of those that the bars are set for")
    asked.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    asked.add_argument("--idle-seconds", type=int, default=20)
    asked.add_argument("--port", type=int, default=8790)
    asked.add_argument("--tuned", action="store_true", help="give the peers the options that were best in the last run")
    asked.add_argument("--show", action="store_true", help="print the last results; measure nothing")
    asked.add_argument("--markdown", action="store_true", help="print the last results as README has them")
    plan = asked.parse_args()
    if plan.show or plan.markdown:
        results = published.read_results()
        show(results) if plan.show else print(markdown(results))
        return 0
    if shutil.which("wrk") is None:
        print("wrk makes the load and is not there; on Debian and Ubuntu: apt-get install wrk")
        return 2
    if not machine.is_readable():
        print("this measures by what Linux tells under /proc, which is not there")
        return 2
    published.BUILD.mkdir(parents=True, exist_ok=True)
    published.update_results("machine", machine.describe())
    published.trained()
    for part in plan.parts:
        {"compare": _compare, "slow": _slow, "scaling": _scaling, "idle": _idle}[part](plan)
    show(published.read_results())
    return 0


def _compare(plan: argparse.Namespace) -> None:
    published.environments()
    comparison = Comparison(plan.port, plan.seconds, plan.kinds, plan.servers, plan.connections)
    comparison.tune(anew=not plan.tuned)
    for number in range(plan.rounds):
        print(f"round {number + 1}")
        comparison.round()
        published.update_results("compare", list(comparison.rows.values()))


def _slow(plan: argparse.Namespace) -> None:
    published.slow()
    published.update_results("slow", [slow.measure_once(plan.port, plan.seconds) for _ in range(plan.rounds)])


def _scaling(plan: argparse.Namespace) -> None:
    published.many()
    published.wide()
    seconds = max(1, plan.seconds // 2)
    published.update_results("scaling", [scaling.measure_once(plan.port, seconds) for _ in range(plan.rounds)])


def _idle(plan: argparse.Namespace) -> None:
    published.update_results("idle", idle.measure_once(plan.port, plan.idle_seconds))


if __name__ == "__main__":
    sys.exit(main())
