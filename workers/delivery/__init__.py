"""Records on their way from a run to the API."""
