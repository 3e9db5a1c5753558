"""Measuring a milter: throughput, latency a stage, and what the measuring itself costs."""
