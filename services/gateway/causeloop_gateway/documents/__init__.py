"""The documents of the interface, made from the code that answers: OpenAPI of the routes, AsyncAPI of the messages."""
