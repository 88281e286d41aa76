"""The index in Redis: which hosts hold which image. One module writes, one reads, Lua keeps it
atomic."""
