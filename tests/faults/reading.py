"""An outside process that reads a log in one transaction: ``reading.py LOG``, until its standard input closes."""

import sqlite3
import sys

if __name__ == "__main__":
    connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM journal").fetchone()
    print("reading", flush=True)
    sys.stdin.read()
