"""Benchmarks: each compares Bandmeter with a peer or a limit in the same run, and prints medians."""
