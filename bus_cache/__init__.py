"""bus-cache: which compute hosts hold which image, kept in Redis from OpenStack's message bus."""

__version__ = "0.1.0"
