"""The shapes of the API's requests and answers: the one source of its OpenAPI document."""
