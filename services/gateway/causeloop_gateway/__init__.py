"""The HTTP gateway: authenticates requests and asks the services over the bus."""
