"""The API's description: OpenAPI 3.1 made from the table of routes, the types and the code, and the page that shows it."""
