"""`make bench`: Ponor beside Apache Kafka 4.3.0 on the same machine, in one run, as ratios.

Read run.py first; systems.py starts what is measured, workloads.py loads it, report.py prints and saves.
"""
