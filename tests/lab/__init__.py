"""A real Nova control plane on one machine: brought up, driven through its operations, recorded."""
