"""Benchmarks that anyone can run: `python -m bench` lists them. Peers are an optional extra."""
