"""The agent on a compute host: tells on the bus what the host's image cache really holds."""
