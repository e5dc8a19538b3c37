"""The parts of benchmarks/soundness.py, a file each: what is done to whycam, and what must hold all the same."""
