"""Command line of recbole_kd; see ``python run_benchmark.py --help``."""

from recbole_kd.benchmark.cli import main

if __name__ == "__main__":
    main()
