"""Keyrings, keys, secrets, signing and verification."""
