"""The outside world of auth: the identity provider."""
