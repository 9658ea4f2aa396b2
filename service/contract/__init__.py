"""All that the API, the service and the workers share: spec, records, states, order, layout and storage.

It needs pydantic and fsspec and nothing else of ours, and it is all of the service that workers may import.
"""
