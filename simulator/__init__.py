"""Boots of a trace on a model of a cloud, scheduled by Nova's real weighers: what a policy costs.

Not installed with the product. ``python -m simulator --help``; docs/placement.md says what is
modelled and how the figures are to be read.
"""
