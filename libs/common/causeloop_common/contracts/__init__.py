"""The contracts: one module per owner, what it answers and what it announces."""
