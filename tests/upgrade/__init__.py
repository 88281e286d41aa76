"""Neighbouring versions side by side: the real programs of older ones beside the present one's."""
