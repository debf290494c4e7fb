"""``steplog demo``: plays the demo and shows it."""

import signal
import time
from pathlib import Path
from types import FrameType

import click

from steplog import __version__
from steplog.cli.output import bar, echo, is_terminal, print_json, styled
from steplog.demo.outside import AT_A_TIME, SERVICES
from steplog.demo.place import Place, place_of
from steplog.demo.proof import Kill, Proof
from steplog.demo.scenario import STEPS, Moment, Outcome, Plan, Progress, Restarted, Sent, play, prepare
from steplog.demo.webhooks import COUNT
from steplog.paths import KAFKA_LOG, file_path, is_kafka, log_path

SHOWN_BODIES = 6
MOST_KILLS = 7  # a run that loses its process more often in a row, retries and 3, is taken for the cause and ended
DRAW_EVERY_S = 0.1


@click.command()
@click.option("--orders", type=click.IntRange(5, COUNT), default=COUNT, show_default=True, help="How many go in.")
@click.option(
    "--kills", type=click.IntRange(0, MOST_KILLS), default=1, show_default=True, help="How often the engine is killed."
)
@click.option(
    "--dir", "directory", default="./steplog-demo", show_default=True, type=click.Path(path_type=Path, file_okay=False),
    help="Where it is played; emptied of an earlier demo.",
)  # fmt: skip
@click.option(
    "--log",
    help="sqlite:PATH, instead of log.db in that directory, or kafka://HOST:PORT; kafka: on this machine.",
)
@click.option("--keep", is_flag=True, help="On Kafka, leave the topics there; otherwise they go when it is over.")
@click.option("--verbose", is_flag=True, help="Name every body that ran twice.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def demo(orders: int, kills: int, directory: Path, log: str | None, keep: bool, verbose: bool, as_json: bool) -> int:
    """Ship orders, kill the engine with kill -9 in the middle, and see that nothing is lost or done twice.

    Ends with 1 where the proof does not hold.

    \b
    Examples:
      steplog demo
      steplog demo --kills 5 --log kafka://127.0.0.1:9092
    """
    if log is not None and log != "kafka" and not is_kafka(log):
        directory = log_path(log).parent
    signal.signal(signal.SIGTERM, _interrupt)  # the engine must not outlive the demo
    with place_of(log, directory, is_kept=keep) as place:
        plan = Plan(place=place, directory=directory, orders=orders, kills=kills)
        prepare(directory, None if is_kafka(place.url) else file_path(place.url))
        screen = None if as_json else _Screen(plan)
        outcome = play(plan, (lambda _: None) if screen is None else screen.show)
    if screen is None:
        print_json(_as_json(plan, outcome))
    else:
        screen.end()
        _show_proof(outcome, verbose=verbose)
        echo(f"More kills: steplog demo --kills 5 · {_look_inside(place, is_kept=keep)}", err=True)
    return 0 if outcome.proof.holds else 1


def _look_inside(place: Place, *, is_kept: bool) -> str:
    if not is_kafka(place.url):
        return f"on Kafka: --log {KAFKA_LOG} · look inside: steplog runs list --log {place.shown_url}"
    if is_kept:
        return f"look inside: steplog topics tail journal --log {place.shown_url}"
    return "look inside: --keep leaves the topics there"


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Screen:
    """Shows what happens, as it happens."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._began_s = time.monotonic()
        self._progress = Progress(0, 0)
        self._drawn_s = 0.0
        self._is_drawn = False  # a line that is still to be ended
        takes = ", ".join(f"{service.path.removeprefix('/')} {service.takes_ms} ms" for service in SERVICES)
        echo(f"steplog {__version__} · log {plan.place.shown} · simulated {takes}, {AT_A_TIME} at a time each")

    def show(self, moment: Moment) -> None:
        match moment:
            case Sent(orders=orders):
                self._line(f"Sent       {orders} orders from webhook bodies, all accepted".ljust(81) + self._elapsed())
            case Progress():
                self._progress = moment
                if is_terminal() and time.monotonic() - self._drawn_s > DRAW_EVERY_S:
                    self._draw()
            case Kill(pid=pid, finished=finished, open=open_, not_begun=not_begun):
                self._end_bar()
                rest = f", {not_begun} not begun" if not_begun else ""
                gone = f"engine {pid} is gone: {finished} runs finished, {open_} open{rest}"
                self._line(f"{styled('kill -9', fg='red')}    {gone}")
            case Restarted(pid=pid, open=open_, took_s=took_s):
                self._line(f"restarted  as {pid}; {open_} runs read back in {took_s:.1f} s, no event sent again")

    def end(self) -> None:
        """Leave the bar as it ended."""
        self._end_bar()

    def _end_bar(self) -> None:
        self._draw()
        echo()

    def _draw(self) -> None:
        progress, orders = self._progress, self._plan.orders
        text = (
            f"  ship-order {bar(progress.runs, orders)}  {progress.runs:>3}/{orders} runs · "
            f"{progress.steps:>3} of {orders * STEPS} steps"
        )
        start = "\r" if is_terminal() else ""
        echo(start + text.ljust(83) + self._elapsed(), newline=False)
        self._drawn_s = time.monotonic()

    def _line(self, text: str) -> None:
        echo(f"  {text}")

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._began_s:5.1f} s"


def _show_proof(outcome: Outcome, *, verbose: bool) -> None:
    proof = outcome.proof
    _claim(
        f"accepted {proof.accepted} events   → {proof.completed} runs completed, {proof.unaccounted} unaccounted",
        "steplog audit", holds=proof.is_accounted,
    )  # fmt: skip
    once = "each recorded once" if proof.is_recorded_once else "not each recorded once"
    _claim(f"planned  {proof.planned} steps    → {proof.results} results, {once}", holds=proof.is_recorded_once)
    _claim(
        f"started  {proof.started} bodies   → {_again(outcome)}", holds=proof.is_repeated_rightly and proof.is_key_kept
    )
    if proof.repeated:
        echo(_bodies(proof, all_=verbose))


def _again(outcome: Outcome) -> str:
    """Which bodies ran more than once."""
    proof, count = outcome.proof, len(outcome.proof.repeated)
    if not proof.is_repeated_rightly:
        return f"{count} began again, which is not those that were in flight"
    if not count:
        return "none began again"
    keys = "each with its first idempotency key" if proof.is_key_kept else "not each with its first idempotency key"
    kills = "kill" if len(outcome.kills) == 1 else "kills"
    again = proof.started - proof.planned
    times = f" {again} times" if again != count else ""
    return f"{count} were in flight at the {kills} and began again{times}, {keys}"


def _claim(text: str, witness: str = "", *, holds: bool) -> None:
    mark = styled("✓", fg="green") if holds else styled("✗", fg="red", bold=True)
    echo(f"  {text.ljust(75)}  {mark} {witness}".rstrip())


def _bodies(proof: Proof, *, all_: bool) -> str:
    """Name the bodies that ran more than once, by step: a few in a line, or all in a line for each step."""
    shown = proof.repeated if all_ else proof.repeated[:SHOWN_BODIES]
    by_step: dict[str, list[str]] = {}
    for body in shown:
        by_step.setdefault(body.step, []).append(body.order)
    lines = [f"{step} {' '.join(orders)}" for step, orders in sorted(by_step.items())]
    indent = " " * 26
    if all_:
        return "\n".join(indent + line for line in lines)
    return indent + " · ".join(lines) + (" … (all: --verbose)" if len(shown) < len(proof.repeated) else "")


def _as_json(plan: Plan, outcome: Outcome) -> dict[str, object]:
    proof = outcome.proof
    return {
        "ok": proof.holds,
        "log": plan.place.shown_url,
        "took_s": round(outcome.took_s, 3),
        "orders": plan.orders,
        "accepted": proof.accepted,
        "completed": proof.completed,
        "unaccounted": proof.unaccounted,
        "steps_planned": proof.planned,
        "steps_recorded": proof.results,
        "steps_recorded_once": proof.is_recorded_once,
        "bodies_started": proof.started,
        "bodies_repeated": [{"step": body.step, "order": body.order} for body in proof.repeated],
        "bodies_repeated_were_in_flight": proof.is_repeated_rightly,
        "idempotency_keys_kept": proof.is_key_kept,
        "effects": proof.acted,
        "kills": [
            {
                "pid": kill.pid,
                "finished": kill.finished,
                "open": kill.open,
                "not_begun": kill.not_begun,
                "in_flight": len(kill.in_flight),
            }
            for kill in outcome.kills
        ],
    }
