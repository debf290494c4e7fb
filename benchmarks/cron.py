"""What a cron costs beside croniter: ``python -m benchmarks.cron``. Next tick, reading, a downtime."""

import time
from collections.abc import Callable
from datetime import datetime

from croniter import croniter

from steplog.engine.cron import parse_cron

SCHEDULES = (
    "* * * * *",
    "*/5 * * * *",
    "0 * * * *",
    "30 2 * * *",
    "0 9 * * 1-5",
    "0 0 1 * *",
    "0 0 29 2 *",
    "0 0 * 2 1#5",
)
ZONES = ("UTC", "America/New_York")
NOW_MS = 1_767_225_600_000
YEAR_MS = 366 * 86_400_000
ROUNDS, ROUNDS_BESIDE = 5_000, 500


def cost_us(rounds: int, call: Callable[[], object]) -> float:
    """The best of three."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(rounds):
            call()
        best = min(best, time.perf_counter() - began)
    return best / rounds * 1e6


def main() -> None:
    """Print the costs."""
    print(f"{'':<32} {'next µs':>8} {'croniter':>9} {'read':>6} {'a year missed: last':>20} {'all':>8}")
    for zone in ZONES:
        for fields in SCHEDULES:
            text = f"TZ={zone} {fields}"
            schedule = parse_cron(text)
            last_ms = NOW_MS

            def following() -> None:
                nonlocal last_ms
                last_ms = schedule.next_after(last_ms)  # noqa: B023 - called before the next round
                if last_ms > NOW_MS + 50 * YEAR_MS:
                    last_ms = NOW_MS

            theirs = croniter(fields, datetime.fromtimestamp(NOW_MS // 1000, schedule.zone), ret_type=datetime)
            own, beside = cost_us(ROUNDS, following), cost_us(ROUNDS_BESIDE // 20, theirs.get_next)
            read = cost_us(200, lambda: parse_cron(text))  # noqa: B023
            last = cost_us(50, lambda: schedule.missed(NOW_MS - YEAR_MS, NOW_MS, "last"))  # noqa: B023
            everything = cost_us(3, lambda: schedule.missed(NOW_MS - YEAR_MS, NOW_MS, "all"))  # noqa: B023
            print(f"  {text:<30} {own:8.1f} {beside:9.1f} {read:6.0f} {last:20.0f} {everything:8.0f}")


if __name__ == "__main__":
    main()
