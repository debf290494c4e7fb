"""What steplog costs, measured beside a floor in the same run: ``uv run python -m benchmarks``.

Figures, no asserts: a shared machine varies by 10–15 % from run to run, so read ratios, and medians of several runs.
"""
