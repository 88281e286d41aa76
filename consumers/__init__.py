"""From the message bus to the index: what each notification says about which host holds which
image."""
