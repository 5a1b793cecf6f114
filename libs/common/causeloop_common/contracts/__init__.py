"""The contracts: one module per owner, with the commands that it answers and the events that it announces."""
