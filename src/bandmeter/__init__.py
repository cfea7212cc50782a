"""Bandmeter meters what proxies and CDN edges carry and answers for it."""

__version__ = "0.1.0"
