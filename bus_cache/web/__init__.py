"""What programs show over HTTP: metrics, health, and a page to look at."""
