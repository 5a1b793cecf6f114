"""The platform of Causeloop's services: messages, tenants, transactions, the bus."""
