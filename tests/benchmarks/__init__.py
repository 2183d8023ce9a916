"""What the README claims in numbers: `python -m tests.benchmarks [NAME ...] [--quick]`."""
