"""The default backend: PyAV, from packets to pictures."""
