"""Drills: real brokers, MinIO and PostgreSQL, real clients under load, faults on purpose; every acknowledged record is
accounted for.

Stands above `brokers`, which never imports it: the command `ponor drill` starts it as a program. What it needs besides
the product is the extra `drills`.
"""
