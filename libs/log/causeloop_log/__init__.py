"""The log's entry format, its proofs, and the verifier that trusts only a key."""
