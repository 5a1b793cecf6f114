"""Persons, sessions, tokens and factors."""
