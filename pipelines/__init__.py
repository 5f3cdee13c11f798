"""Entry points that run for long: training and benchmarks."""
