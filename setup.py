"""Kept for tools that still look for it: all is said in pyproject.toml."""

from setuptools import setup

setup()
