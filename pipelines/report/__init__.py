"""Measurements, and the pages that are made of them."""
