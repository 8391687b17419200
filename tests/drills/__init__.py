"""Drills: real processes, real stores, real clients, faults on purpose; every acknowledged record accounted for."""
