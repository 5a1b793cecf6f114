"""What every service of Causeloop is made of: messages, tenants, transactions, the bus."""
