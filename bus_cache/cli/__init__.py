"""The command line ``bus-cache``: what the index holds, for people and for scripts."""
