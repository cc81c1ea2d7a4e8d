"""One file per resource of the API: read the call, ask the database or the gateway, answer."""
