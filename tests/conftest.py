"""Fixtures are imported where they are used (tests/support); this file only loads the plugins of every run."""

pytest_plugins = ["tests.support.tools_plugin"]
